"""A recipe's open values searched over: candidates are runs, and only the best one sees the test data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from paretune import tune
from paretune.errors import InfeasibleError, InputError
from paretune.tuning._open import open_recipe
from paretune.tuning._tune import Candidate, numbers_of

TASK = """
from paretune import Task
from paretune.zoo import digits, digits_net, normalise


def make_task(width=8):
    data = {
        split: (normalise(images, mean=[0.3], std=[0.38], scale=16.0), labels.astype("int64"))
        for split, (images, labels) in digits().items()
    }
    return Task(name="digits", model=lambda: digits_net(width=width), **data)
"""
FIXED = {"precision": "float32", "layout": "contiguous", "lr": 3e-3}


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "tuned_digits.py"
    path.write_text(TASK)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "tuning-cache"))


def cut(task_file: Path, **constraints: Any) -> dict[str, Any]:
    return {
        "task": f"{task_file}:make_task",
        "steps": [
            {"train": {"epochs": 2, **FIXED}},
            {"prune.channels": {"macs": {"float": [0.3, 0.9]}, "score": {"categorical": ["l1", "l2"]}}},
        ],
        "constraints": constraints,
    }


def test_a_search_ends_with_a_run_of_the_best(task_file: Path, tmp_path: Path) -> None:
    made = tune(cut(task_file, max_size="0.95x"), method="random", budget=2, out=tmp_path)
    assert len(made.search.trials) == 2
    assert made.search.best is not None
    values = made.search.best.values
    assert values["size"] <= 0.95
    assert made.search.best.loss == values["error"]
    row = made.run.summary["candidates"][-1]
    assert row["metric"]["value"] == pytest.approx(1 - values["error"])
    assert row["recipe"]["steps"][1]["prune.channels"]["macs"] == made.search.config["prune.channels.macs"]
    assert "test" in made.run.summary["candidates"][0]  # the best alone is confirmed
    for summary in (tmp_path / "runs").glob("config-*/run/summary.json"):
        assert '"test": {' not in summary.read_text()
    again = tune(cut(task_file, max_size="0.95x"), method="random", budget=2, out=tmp_path)
    assert [trial.number for trial in again.search.trials] == [0, 1]
    assert again.run.folder == made.run.folder


def test_the_model_itself_may_be_open_and_budgets_are_epochs(task_file: Path, tmp_path: Path) -> None:
    recipe = {
        "task": f"{task_file}:make_task",
        "model": {"width": {"int": [4, 8]}},
        "steps": [{"train": {"epochs": "budget", **FIXED}}],
    }
    made = tune(recipe, method={"hyperband": {"min": 1, "max": 3}}, budget=4, out=tmp_path)
    assert {trial.budget for trial in made.search.trials} == {1, 3}
    assert made.search.best is not None
    assert made.search.best.budget == 3
    width = made.search.config["model.width"]
    assert made.run.summary["candidates"][0]["recipe"]["task"].endswith(f"make_task(width={width})")
    assert made.run.summary["candidates"][0]["recipe"]["steps"][0]["train"]["epochs"] == 3


def test_where_no_candidate_holds_the_constraints_that_is_said(task_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InfeasibleError, match=r"no run holds the constraints; the nearest .* size .* misses <= 0\.01"
    ):
        tune(cut(task_file, max_size="0.01x"), method="random", budget=1, out=tmp_path)


def test_what_is_minimised_follows_from_the_constraints() -> None:
    def candidate(minimize: str = "auto", **constraints: Any) -> Candidate:
        return Candidate(open_recipe(cut(Path("net.py"), **constraints)), minimize)

    assert candidate().minimized == "error"
    assert candidate(max_drop=1.0).minimized == "latency"
    assert candidate(max_drop=1.0, max_latency="0.5x").minimized == "error"
    assert candidate("bytes", max_drop=1.0).minimized == "bytes"
    asked = candidate(max_drop=1.0, max_latency="2ms", max_size="0.25x", max_flips=3).constraints
    assert asked == {"drop": "<= 1", "latency_ms": "<= 2", "size": "<= 0.25", "flips": "<= 3"}
    with pytest.raises(InputError, match=r"minimize.*latncy.*Did you mean 'latency'"):
        candidate("latncy")
    changing = cut(Path("net.py"), max_drop=1.0) | {"model": {"width": {"int": [4, 8]}}}
    with pytest.raises(InputError, match="max_drop is a drop from the task's own model"):
        Candidate(open_recipe(changing))
    sent = pickle.loads(pickle.dumps(candidate(max_drop=1.0)))
    assert sent.minimized == "latency"
    assert sent.opened.space.names == candidate().opened.space.names


def test_the_numbers_of_a_run() -> None:
    latency = {"ratio": 0.5, "median_ms": 2.0}
    first = {"bytes": 400, "metric": {"value": 0.9}, "latency": {"ratio": 1.0, "median_ms": 4.0}}
    last = {
        "bytes": 100,
        "metric": {"value": 0.875, "greater_is_better": True, "fraction": True},
        "latency": latency,
        "decision": {"drop": 2.5},
        "behaviour": {"flips": 3.0, "worst_class": None},
    }
    assert numbers_of([first, last]) == {
        "error": 0.125, "latency": 0.5, "latency_ms": 2.0, "size": 0.25, "bytes": 100.0, "drop": 2.5, "flips": 3.0,
    }  # fmt: skip
    regression = last | {"metric": {"value": 7.0, "greater_is_better": False, "fraction": False}}
    assert numbers_of([first, regression])["error"] == 7.0
    scored = last | {"metric": {"value": 7.0, "greater_is_better": True, "fraction": False}}
    assert numbers_of([first, scored])["error"] == -7.0
