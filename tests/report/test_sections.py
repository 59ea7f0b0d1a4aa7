from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

from paretune.artifact import BatchCheck
from paretune.report._rows import rows
from paretune.report._sections import certificate_rows, did_not_help, front_drawings, layers_of, machine_rows
from paretune.report._summary import read_run


def roles(drawing: str) -> dict[str, str]:
    marks = ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}g")
    return {g.get("data-candidate"): g.get("class").split()[1] for g in marks if g.get("data-candidate")}


def test_the_front_is_drawn_against_latency_and_against_bytes(summary) -> None:
    latency, size = front_drawings(summary, rows(summary))
    assert roles(latency) == {
        "baseline": "baseline", "pruned": "other", "distilled": "front", "quantized": "best",
        "quantized-only": "other",
    }  # fmt: skip
    assert roles(size)["quantized-only"] == "front"  # 1.04 MB at 98.2 %: smaller and better than distilled
    assert roles(size)["distilled"] == "other"


def test_a_metric_where_less_is_better_turns_the_front(summary) -> None:
    for candidate in summary["candidates"]:
        candidate["metric"]["name"] = "rmse"
    assert roles(front_drawings(summary, rows(summary))[0])["pruned"] == "front"


def test_a_layer_by_hand(summary) -> None:
    layer = layers_of(summary["candidates"][3])[0]
    assert (layer.name, layer.type, layer.channels, layer.kept) == ("conv1", "Conv2d", "64 → 32", 0.5)
    assert layer.macs == ("4.7 M → 1.18 M", "0.25x")
    assert layer.bytes == ("73.7 KB → 4.61 KB", "0.062x")
    assert layer.error == "34.2 dB" and layer.changed
    assert not any(layer.changed for layer in layers_of(summary["candidates"][0]))


def test_a_layer_of_which_little_is_known() -> None:
    bare, gone = layers_of(
        {"layers": [{"name": "a"}, "no layer", {"name": "b", "channels_before": 8, "channels_after": 0}]}
    )
    assert (bare.channels, bare.macs, bare.error, bare.kept, bare.changed) == ("-", ("-", ""), "-", None, False)
    assert (gone.channels, gone.kept) == ("8 → 0", 0.0)
    assert layers_of({}) == layers_of({"layers": None}) == []


def test_certificates_show_every_check_and_where_it_failed(folder: Path) -> None:
    certificates = read_run(folder).certificates
    failed = dataclasses.replace(
        certificates["pruned"], batches=(BatchCheck(1, 0.3, False, "node_conv2d_1"),), fixed_batch=1
    )
    good, bad = certificate_rows({"baseline": certificates["baseline"], "pruned": failed})
    assert [check["batch"] for check in good["checks"]] == [1, 2, 3]
    assert good["against"] == "PyTorch" and good["tolerance"] == "0.0001 relative"
    assert bad["checks"] == [{"batch": 1, "error": "0.3", "ok": False, "diverges_at": "node_conv2d_1"}]
    assert "takes only batch 1" in bad["remarks"]
    assert good["remarks"] == ["accuracy from the file on val: 98.0 %"]


def test_the_machine_with_its_versions(folder: Path, summary) -> None:
    entries = dict(machine_rows(summary["target"], read_run(folder).certificates))
    assert entries["processor"] == "Example CPU @ 2.80GHz"
    assert entries["instruction flags"].startswith("avx, avx2")
    assert (entries["threads"], entries["onnxruntime version"]) == ("1", "1.32.0")
    assert machine_rows("somewhere", {}) == [("target", "somewhere")]


def test_what_did_not_help_is_said_once_each(folder: Path) -> None:
    run = read_run(folder)
    found = did_not_help(dataclasses.replace(run, events=run.events * 2), 200)
    assert [where for where, _ in found] == [
        "pruned", "distilled", "quantized-only", "pruned", "quantize.static", "warning",
    ]  # fmt: skip
    assert found[-1][1] == "the machine was busy while timing (load 1.9)"


def test_a_thousand_notes_are_cut_and_that_is_said(folder: Path) -> None:
    run = read_run(folder)
    notes = [{"kind": "note", "text": f"note {i}"} for i in range(1000)]
    found = did_not_help(dataclasses.replace(run, events=notes), 20)
    assert len(found) == 21
    assert found[-1] == ("report", "984 more stand in events.jsonl and summary.json")
