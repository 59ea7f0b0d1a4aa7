"""LCBench, learning curves of multilayer perceptrons on 34 OpenML tasks, as a surrogate that ONNX Runtime runs.

A configuration is seven numbers in [0, 1], each on the scale of the hyperparameter that it stands for. The loss is
minus the validation accuracy in percent, which has no noise here; a run of b epochs costs the seconds that the
surrogate tells, from scratch. Regret is of the accuracy after 52 epochs, against the best of 200,000 draws, and 0
above it: a climb from there leads to spikes where the surrogate has seen nothing (93.8 % on task 168908, where no
draw has more than 85.5). `results/lcbench/reference.json` keeps that best, and the mean seconds of a full run.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from _oracles import Number, Spec

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "hpo" / "lcbench"
REFERENCE = Path(__file__).parent / "results" / "lcbench" / "reference.json"
BUDGETS = (2, 6, 17, 52)
SHOWN = ("3945", "34539", "168908", "167168")
RANGES = {
    "batch_size": (16, 512, True, True),
    "learning_rate": (1e-4, 1e-1, True, False),
    "momentum": (0.1, 0.99, False, False),
    "weight_decay": (1e-5, 1e-1, False, False),
    "num_layers": (1, 5, False, True),
    "max_units": (64, 1024, True, True),
    "max_dropout": (0.0, 1.0, False, False),
}
"""Low, high, logarithmic, whole; in the order in which the surrogate takes them."""
DRAWS = 200_000
SECONDS, ACCURACY = 0, 1
"""Columns of the surrogate's output."""


def tasks() -> tuple[str, ...]:
    """Return all 34 tasks."""
    space = json.loads((DATA / "config_space.json").read_text())["hyperparameters"]
    return tuple(next(each["choices"] for each in space if each["name"] == "OpenML_task_id"))


@cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(DATA / "model.onnx"), options, providers=["CPUExecutionProvider"])


def predicted(task: str, units: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Return seconds and validation accuracy, (n, 2), of configurations (n, 7) in [0, 1] after epochs (n,)."""
    code = json.loads((DATA / "encoding.json").read_text())["OpenML_task_id"][task]
    columns = [np.asarray(epochs, np.float64)]
    for column, (low, high, log, whole) in enumerate(RANGES.values()):
        unit = units[:, column]
        values = low * (high / low) ** unit if log else low + unit * (high - low)
        columns.append(np.rint(values) if whole else values)
    feed = {
        "x_cat": np.full((len(units), 1), code, np.int32),
        "x_cont": np.stack(columns, axis=1).astype(np.float32),
    }
    return np.asarray(_session().run(None, feed)[0][:, [SECONDS, ACCURACY]], np.float64)


class LcBench:
    """One task."""

    budgets = BUDGETS

    def __init__(self, task: str) -> None:
        self.task = task
        self._known: dict[tuple[Any, ...], tuple[float, float]] = {}

    @property
    def space(self) -> Spec:
        """What a configuration holds."""
        return {name: Number() for name in RANGES}

    @cached_property
    def reference(self) -> dict[str, float]:
        """The best accuracy of a full run, and the mean seconds of one."""
        return dict(json.loads(REFERENCE.read_text())[self.task])

    @property
    def full(self) -> float:
        """What a full run costs on average, in seconds."""
        return self.reference["seconds"]

    def loss(self, config: dict[str, Any], budget: float) -> float:
        """Return minus the accuracy in percent."""
        return -self._run(config, budget)[1]

    def cost(self, config: dict[str, Any], budget: float) -> float:
        """Return the seconds of a run."""
        return self._run(config, budget)[0]

    def regret(self, config: dict[str, Any]) -> float:
        """Return by how many points the accuracy of a full run is below the best."""
        return max(0.0, self.reference["accuracy"] - self._run(config, BUDGETS[-1])[1])

    def _run(self, config: dict[str, Any], budget: float) -> tuple[float, float]:
        key = (*(float(config[name]) for name in RANGES), float(budget))
        if key not in self._known:
            seconds, accuracy = predicted(self.task, np.array([key[:-1]]), np.array([budget]))[0]
            self._known[key] = (float(seconds), float(accuracy))
        return self._known[key]


def find_reference(task: str) -> dict[str, float]:
    """Return the best accuracy that draws find, and the mean seconds of a draw's full run."""
    generator = np.random.default_rng(0)
    best, seconds = -np.inf, []
    for _ in range(DRAWS // 20_000):
        units = generator.random((20_000, len(RANGES)))
        out = predicted(task, units, np.full(len(units), BUDGETS[-1]))
        best = max(best, float(out[:, 1].max()))
        seconds.append(out[:, 0].mean())
    return {"accuracy": round(best, 4), "seconds": round(float(np.mean(seconds)), 3)}


def keep_reference(task: str) -> None:
    """Find the reference of a task and keep it, where that was not done before."""
    known = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    if task not in known:
        REFERENCE.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(known | {task: find_reference(task)}, indent=1)
        REFERENCE.write_text(text + "\n")
