from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.errors import InputError
from paretune.report import read_summary
from paretune.report._summary import read_events, read_run


def test_a_run_folder_is_read_whole(folder: Path) -> None:
    run = read_run(folder)
    assert run.summary["best"] == "quantized"
    assert [event["kind"] for event in run.events][:2] == ["run_started", "step_started"]
    assert list(run.certificates) == ["baseline", "pruned", "distilled", "quantized", "quantized-only"]
    assert "max_drop" in run.recipe
    assert run.problems == ()


def test_only_the_summary_is_needed(write, summary) -> None:
    run = read_run(write(summary))
    assert (run.events, run.recipe) == ([], "")
    assert len(run.problems) == len(summary["candidates"])  # each certificate that is named but missing is said


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run folder .*nowhere: give the folder that a run wrote"):
        read_summary(tmp_path / "nowhere")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no summary\.json in .*it is no run folder"):
        read_summary(tmp_path)


def test_a_run_that_has_not_finished(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(InputError, match=f"not finished; `paretune run --resume {tmp_path}` goes on with it"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: Expecting"),
        ("[]", "a summary is a JSON object, not a list"),
        ("{}", "schema=None must be a whole number"),
        ('{"schema": 99}', "schema 99 was written by a newer paretune; this one reads up to 1. Upgrade"),
        ('{"schema": 1, "task": "t"}', "lacks target, candidates, best"),
    ],
)
def test_a_damaged_or_newer_summary(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(candidates=[]), "candidates must be a list that starts with the baseline"),
        (lambda s: s["candidates"].append(7), r"candidates\[5\] must be a JSON object, not 7"),
        (lambda s: s["candidates"][1].pop("macs"), r"candidates\[1\] lacks macs"),
        (lambda s: s["candidates"][1]["latency"].pop("ratio"), r"candidates\[1\].latency lacks ratio"),
        (lambda s: s.update(best="tiny"), "best='tiny' is no candidate; there are baseline, pruned"),
    ],
)
def test_a_summary_of_another_shape_says_where(write, summary, change, message: str) -> None:
    change(summary)
    with pytest.raises(InputError, match=message):
        read_summary(write(summary))


def test_a_last_event_cut_short_by_a_kill_is_passed_over(folder: Path) -> None:
    whole, _ = read_events(folder)
    path = folder / "events.jsonl"
    path.write_text(path.read_text() + '{"time": 3.0, "kind": "epo')
    assert read_events(folder) == (whole, 0)


def test_a_damaged_line_in_the_middle_is_counted_and_said(folder: Path) -> None:
    path = folder / "events.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first[:9]}\n[1]\n{rest}")
    run = read_run(folder)
    assert run.problems == ("1 line of events.jsonl could not be read and is left out",)
    assert run.events[0]["kind"] == "step_started"


def test_a_damaged_certificate_is_said_and_the_others_stay(folder: Path) -> None:
    (folder / "artifacts/pruned.certificate.json").write_text("{}")
    run = read_run(folder)
    assert "pruned" not in run.certificates and "quantized" in run.certificates
    assert len(run.problems) == 1 and "certificate of pruned" in run.problems[0]


def test_a_certificate_that_no_candidate_names_is_kept_under_its_file(folder: Path) -> None:
    text = (folder / "artifacts/pruned.certificate.json").read_text()
    (folder / "artifacts/extra.certificate.json").write_text(text)
    assert list(read_run(folder).certificates)[-1] == "extra"


def test_events_that_are_no_objects_are_ignored(folder: Path) -> None:
    (folder / "events.jsonl").write_text(json.dumps([1]) + "\n\n" + json.dumps({"kind": "note"}) + "\n")
    assert read_events(folder) == ([{"kind": "note"}], 0)
