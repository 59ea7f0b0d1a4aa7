"""The shared line of the benchmarks, the page made of it, and the benchmarks that are quick enough to run here."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if not path.name.startswith("_"))
LINE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["benchmark", "value", "unit", "goal", "met", "peer", "seeds", "cpu", "seconds", "detail"],
    "properties": {
        "benchmark": {"type": "string"},
        "value": {"type": ["number", "null"]},
        "unit": {"type": "string"},
        "goal": {"type": "string"},
        "met": {"type": "boolean"},
        "peer": {"type": ["object", "null"], "required": ["name", "value"]},
        "seeds": {"type": "array", "items": {"type": "integer"}},
        "cpu": {"type": "object", "required": ["flags_hash", "architecture"]},
        "seconds": {"type": "number"},
        "detail": {"type": "object"},
    },
}


def python(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_startup_imports_nothing_heavy():
    line = json.loads(python("benchmarks/startup.py", "--quick").splitlines()[-1])
    jsonschema.validate(line, LINE)
    assert line["detail"]["heavy_modules_after_import"] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_has_help_and_the_two_options(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--quick" in text
    assert "--save" in text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_saved_results_are_whole_and_re_runnable(path):
    line = json.loads(path.read_text())
    jsonschema.validate(line, LINE)
    assert line["benchmark"] == path.stem
    assert (ROOT / "benchmarks" / f"{path.stem}.py").exists()
    for key in ("artifact", "baseline"):
        if key in line["detail"]:
            assert (path.parent / line["detail"][key]).stat().st_size <= 2_000_000


def test_the_page_is_what_the_results_say(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _readme

    assert (ROOT / "benchmarks" / "README.md").read_text() == _readme.page(_readme.saved())


def test_a_missed_goal_stands_on_the_page_as_missed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _readme

    line = {
        "benchmark": "b", "value": 0.5, "unit": "x", "goal": "at most 0.3x", "met": False,
        "peer": {"name": "INT8 alone", "value": 0.48}, "seeds": [0, 1], "seconds": 3.0,
        "cpu": {"name": "CPU", "architecture": "x86_64", "cores": 2, "flags_hash": "abc"},
        "detail": {"rows": [{"name": "a"}], "latency": {"ratio": 0.25, "more": {}}, "widths": [1, 2]},
    }  # fmt: skip
    jsonschema.validate(line, LINE)
    text = _readme.page([line])
    assert "| [b](b.py) | 0.5 x | at most 0.3x | **no** | INT8 alone: 0.48 | 0, 1 |" in text
    assert "| latency.ratio | 0.25 |" in text
    assert "rows" not in text.split("## b")[1]  # what is nested deeper is in the file
    assert "| widths | 1, 2 |" in text
