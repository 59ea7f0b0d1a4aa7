"""`paretune optimize` and `paretune demo`: what they hand to the flow, and how a search is resumed."""

import json
import signal
import subprocess
import sys

import pytest

from paretune.result import Result

ROW = {
    "name": "baseline",
    "metric": {"name": "accuracy", "value": 0.9, "low": 0.8, "high": 0.95, "n": 64},
    "latency": {
        "median_ms": 1.0,
        "p99_ms": 2.0,
        "ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
        "verdict": None,
    },
    "artifact": "artifacts/baseline.onnx",
}


@pytest.fixture
def calls(monkeypatch):
    """Put a recorder in place of the flow: calls["optimize"] is (arguments, keywords)."""
    seen = {}

    def recorder(name):
        def record(*args, out, emit, **keywords):
            seen[name] = (args, {**keywords, "out": out})
            emit("run_started", {"name": out.name, "steps": []})
            return Result(out, {"schema": 1, "constraints": {}, "candidates": [ROW], "best": "baseline"})

        return record

    for name in ("run", "optimize"):
        monkeypatch.setattr(f"paretune.flow.{name}", recorder(name))
        monkeypatch.delitem(vars(sys.modules["paretune"]), name, raising=False)
    return seen


def test_the_constraints_reach_the_search_as_typed(cli, folder, calls):
    result = cli(
        "optimize", "quarters.py:make_task", "--max-drop", 0.5, "--max-latency", "0.5x", "--max-size", "300KB",
        "--max-flips", 2, "--max-class-drop", 3, "--budget", "90s", "--threads", 2, "--batch", 4, "--seed", 7,
        "--no-cache", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == "runs/optimize"
    (task,), keywords = calls["optimize"]
    assert task.name == "quarters"
    bounds = {"max_drop": 0.5, "max_latency": "0.5x", "max_size": "300KB", "max_flips": 2.0, "max_class_drop": 3.0}
    assert bounds.items() <= keywords.items()
    assert (keywords["budget"], keywords["seed"], keywords["cache"]) == ("90s", 7, False)
    assert (keywords["target"].threads, keywords["target"].batch) == (2, 4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--max-latency", "fast"), "max_latency='fast' is no amount"),
        (("--max-drop", "-1"), "max_drop=-1.0 must be a number of at least 0"),
        (("--max-drip", "1"), "Did you mean '--max-drop'?"),
        (("--threads", "0"), "threads=0"),
        (("--budget", "soon"), "budget='soon' is no length of time"),
    ],
)
def test_bad_constraints_are_told_before_the_task_is_imported(cli, folder, args, message):
    result = cli("optimize", "nowhere.py:make_task", *args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "nowhere" not in result.stderr


def test_the_demo_runs_the_packaged_recipe(cli, folder, calls):
    result = cli("demo", "--out", "demo", "--json")
    assert result.exit_code == 0, result.output
    (recipe,), keywords = calls["run"]
    assert [step.name for step in recipe.steps] == ["train", "prune.channels", "distill", "quantize.static"]
    assert str(keywords["out"]) == "demo"


def test_an_interrupted_search_is_resumed_with_what_it_was_asked(cli, folder):
    command = [
        sys.executable, "-m", "paretune", "optimize", "quarters.py:make_task", "--max-size", "0.5x",
        "--budget", "90s", "--seed", "3", "--out", "search",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("run search" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "paretune run --resume search" in err
    check_what_a_resumed_search_is_asked(cli, folder / "search")


def check_what_a_resumed_search_is_asked(cli, search):
    """The same constraints, budget and seed, read from the folder."""
    seen = {}

    def record(task, **keywords):
        seen.update(keywords)
        return Result(keywords["out"], {"schema": 1, "constraints": {}, "candidates": [ROW], "best": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paretune.flow.optimize", record)
        patch.delitem(vars(sys.modules["paretune"]), "optimize", raising=False)
        assert cli("run", "--resume", search, "--json").exit_code == 0
    assert (seen["max_size"], seen["max_drop"], seen["budget"], seen["seed"]) == ("0.5x", None, 90.0, 3)
    assert seen["resume"] is True
