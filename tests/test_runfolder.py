"""Run folders: one run at a time, nothing lost, torn lines cut."""

import subprocess
import sys
from pathlib import Path

import pytest

from paretune.errors import InputError, RunError
from paretune.runfolder import open_run, read_events

SETTINGS = {"recipe.yaml": "steps: [train]\n"}


def test_events_are_appended_and_heard(tmp_path: Path):
    heard = []
    with open_run(
        tmp_path / "a", SETTINGS, resume=False, listen=lambda kind, fields: heard.append(kind)
    ) as folder:
        folder.emit("epoch", {"epoch": 1})
        folder.emit("batch", {"done": 1})
        folder.record("probe", {"ratio": 0.5})
        assert folder.recorded("probe")[0]["ratio"] == 0.5
    assert heard == ["epoch", "batch", "probe"]
    assert [event["kind"] for event in read_events(tmp_path / "a")] == ["epoch", "probe"]  # batches are not kept


def test_a_second_run_in_the_folder_is_refused_while_the_first_one_lives(tmp_path: Path):
    code = (
        "import sys; from paretune.runfolder import open_run\n"
        f"with open_run({str(tmp_path / 'a')!r}, {SETTINGS!r}, resume=True): pass"
    )
    with open_run(tmp_path / "a", SETTINGS, resume=False):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0
        assert "is in use by process" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_finished_folder_is_not_overwritten(tmp_path: Path):
    with open_run(tmp_path, SETTINGS, resume=False):
        pass
    with (
        pytest.raises(InputError, match="holds a run already: `paretune run --resume"),
        open_run(tmp_path, SETTINGS, resume=False),
    ):
        pass


def test_resume_needs_a_run_and_the_same_settings(tmp_path: Path):
    with pytest.raises(InputError, match="no run to resume"), open_run(tmp_path, SETTINGS, resume=True):
        pass
    with open_run(tmp_path, SETTINGS, resume=False):
        pass
    with pytest.raises(InputError, match="of another run"), open_run(tmp_path, {"recipe.yaml": "x"}, resume=True):
        pass


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path):
    with open_run(tmp_path, SETTINGS, resume=False) as folder:
        folder.emit("note", {"text": "whole"})
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "note", "te')
    assert len(read_events(tmp_path)) == 1
    with open_run(tmp_path, SETTINGS, resume=True) as folder:
        folder.emit("note", {"text": "after"})
    assert [event["text"] for event in read_events(tmp_path)] == ["whole", "after"]


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), open_run(tmp_path / "file" / "a", SETTINGS, resume=False):
        pass
