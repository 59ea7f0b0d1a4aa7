from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretune.errors import InputError, RunError
from paretune.report import html, write_report
from paretune.report._html import _recipe_text

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks nesting, and collects tags with their attributes and the text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_every_part_of_a_full_run_is_there(folder: Path) -> None:
    words = Page(html(folder)).words()
    for part in (
        "0.14x the latency and 0.066x the bytes, accuracy 98.1 % against 98.3 % on test data: within 1 point.",
        "Asked for: max drop 1, max latency 0.5x",
        "latency, ratio to the baseline", "bytes on disk",
        "97.1 to 98.8", "cannot tell", "quantized-only",
        "paretune run runs/demo/artifacts/quantized.recipe.yaml",
        "0.44 % of the samples were right before and are wrong now",
        "64 → 32", "34.2 dB",
        "soft_labels", "best 97.0 %",
        "own graph, unoptimised", "1.7e-06",
        "avx512_vnni", "onnxruntime version",
        "head is not prunable", "the machine was busy",
    ):  # fmt: skip
        assert part in words, part


def test_no_outside_address_and_no_script_but_its_own(folder: Path) -> None:
    page = html(folder)
    assert set(re.findall(r"[a-z]+://[^\s\"'<>]+", page)) <= {
        "http://www.w3.org/2000/svg"
    }  # a name, never fetched
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(tag in ("img", "iframe", "object", "embed", "base", "form") for tag, _ in tags)
    addresses = [
        value
        for _, attrs in tags
        for key, value in attrs.items()
        if key in ("src", "href", "action", "xlink:href")
    ]
    assert addresses == ["data:,"]
    assert "default-src 'none'" in page


def test_an_ordinary_report_is_small(folder: Path) -> None:
    assert len(html(folder).encode()) < 100_000


def test_tables_have_headers_with_scope_and_drawings_have_labels(folder: Path) -> None:
    tags = Page(html(folder)).tags
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for tag, attrs in tags if tag == "svg")
    assert ("html", {"lang": "en"}) in tags
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))
    named = {attrs["id"] for _, attrs in tags if attrs.get("id")}
    assert {attrs["aria-labelledby"] for _, attrs in tags if attrs.get("aria-labelledby")} <= named


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def poisoned(value: Any) -> Any:
    """Return the value with every string in it, keys too, replaced by something hostile, but what is structure."""
    if isinstance(value, dict):
        return {
            key: item if key in ("kind", "verdict", "schema") else poisoned(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_the_way_of_beta_is_drawn(write, summary, folder: Path) -> None:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    event = {"kind": "beta", "step": "prune.learned", "group": "conv1", "channels": 3, "steps": [0, 9]}
    event |= {"quantiles": [[1.0] * 5, [-2.0, 0.1, 0.5, 1, 2]]}
    page = html(write(summary, [*events, event]))
    assert "prune.learned, beta 1 group of channels" in Page(page).words()
    assert page.count("conv1, step 9") == 4 and page.count("<svg") == html(folder).count("<svg") + 2


def test_names_from_the_user_stay_text(write, summary, folder: Path) -> None:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    run = write(poisoned(summary) | {HOSTILE: HOSTILE}, poisoned(events))
    (run / "recipe.yaml").write_text(f"task: {HOSTILE}")
    page = html(run)
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in tags)
    assert not any(key.startswith("on") for _, attrs in tags for key in attrs)
    assert page.count("alert(1)") > 30  # it was there to be escaped


@pytest.mark.parametrize(
    "missing", ["decision", "behaviour", "layers", "command", "notes", "split", "test", "constraints", "machine"]
)
def test_what_is_missing_is_left_out(write, summary, missing: str) -> None:
    summary.pop(missing, None)
    summary["target"].pop(missing, None)
    for candidate in summary["candidates"]:
        candidate.pop(missing, None)
    Page(html(write(summary)))


def test_the_bare_minimum_is_a_report(write, summary) -> None:
    fields = ("name", "recipe", "certificate", "metric", "latency", "bytes", "params", "macs", "peak_memory_bytes",
              "load_ms", "train_seconds", "artifact")  # fmt: skip
    bare = [{key: candidate[key] for key in fields} for candidate in summary["candidates"]]
    content = {"schema": 1, "task": "t", "target": summary["target"], "candidates": bare, "best": None}
    words = Page(html(write(content))).words()
    assert "No candidate meets the constraints; the baseline stays as it is." in words
    assert "The run did not record a command for this row." in words
    for part in ("Layer by layer", "Training", "The recipe, as resolved"):
        assert part not in words


def test_a_recipe_is_shown_as_recipes_are_written_and_reads_back(write, summary) -> None:
    recipe = {
        "task": "a.py:make_task", "target": {"runtime": "onnxruntime", "threads": 1},
        "steps": [{"prune.channels": {"ratio": 0.5, "protect": [], "macs": None}}, {"distill": {}}, "train"],
        "constraints": {}, "seed": 0,
    }  # fmt: skip
    assert yaml.safe_load(_recipe_text(recipe)) == recipe
    assert "\n  - prune.channels: {ratio: 0.5, protect: [], macs: null}\n  - distill: {}\n" in _recipe_text(recipe)
    assert (_recipe_text("a.yaml"), _recipe_text(None)) == ("a.yaml", "")
    summary["candidates"][3]["recipe"] = recipe
    assert "- prune.channels: {ratio: 0.5, protect: [], macs: null}" in Page(html(write(summary))).words()


def test_the_baseline_alone_is_a_report(write, summary) -> None:
    summary["candidates"], summary["best"] = summary["candidates"][:1], "baseline"
    assert "The baseline is the best there is" in Page(html(write(summary))).words()


def test_a_huge_run_stays_under_a_megabyte_and_says_what_it_left_out(write, summary) -> None:
    model = summary["candidates"][3]
    layer = model["layers"][0]
    model["layers"] = [layer] * 400
    many = [
        model | {"name": f"candidate-{i}", "layers": [layer | {"name": f"block.{j}.conv"} for j in range(400)],
                 "notes": [f"note {i}.{j} " + "x" * 100 for j in range(5)]}
        for i in range(200)
    ]  # fmt: skip
    summary["candidates"] += many
    events = [
        {"kind": "epoch", "step": f"step-{s}", "epoch": e, "epochs": 500, "loss": 1 / e, "value": 0.5,
         "terms": {"a": 1 / e, "b": 0.1}}
        for s in range(30) for e in range(1, 501)
    ]  # fmt: skip
    page = html(write(summary, events))
    assert len(page.encode()) < 1_000_000
    assert "This run is large" in page
    words = Page(page).words()
    assert re.search(r"\d+ more layers stand in summary\.json", words)
    assert "candidate-199" in words  # the table keeps every candidate


def test_it_is_written_into_the_run_folder_or_where_told(folder: Path, tmp_path: Path) -> None:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text() == html(folder)
    assert write_report(folder, tmp_path / "deep" / "other.html").read_text() == html(folder)


def test_a_folder_without_a_summary_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no summary\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(folder: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*summary\.json/report\.html"):
        write_report(folder, folder / "summary.json" / "report.html")


def test_constraints_come_from_the_recipe_where_the_summary_has_none(write, summary) -> None:
    del summary["constraints"]
    run = write(summary)
    (run / "recipe.yaml").write_text("constraints: {max_drop: 2.5}")
    assert "Asked for: max drop 2.5." in Page(html(run)).words()
    (run / "recipe.yaml").write_text("constraints: [")
    assert "Asked for" not in Page(html(run)).words()
