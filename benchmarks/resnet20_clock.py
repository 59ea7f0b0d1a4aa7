"""The pretrained ResNet-20 on the target's clock: depth, resolution and INT8, down to 0.2x of the FP32 latency.

Shapes are timed before they are trained: blocks go by the loss on training images, images are scaled down inside
of the model, each shape is quantized and timed in turns with the network as it was given (ONNX Runtime, batch 1,
one thread). Of the shapes that hold a latency those that are most often right before training are distilled for
an epoch by the pretrained ResNet-56; the best of them on the even test images has all epochs. Beside it stands
what most tools do: channels removed by multiply-accumulates (`prune.channels(macs=)`) until the latency holds,
quantized and trained alike. INT8 alone is the first point of both curves. Accuracy is that of the INT8 files on
the odd test images, against the unpruned FP32 network; all choices are made on the even ones.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from _arms import WORK, Arms, compared, packed
from _cifar10 import make_model, make_task
from _common import RESULTS, Result, run, say
from _finetune import TRAINING, correct, judged, listen, threads
from paretune.distill import distill
from paretune.evaluation import evaluate
from paretune.export import evaluate_file, export_onnx, save, strip
from paretune.measure import latency
from paretune.prune import Blocks, Channels, Resolution
from paretune.quantize import Static
from paretune.recipe import Context
from paretune.target import Target
from paretune.task import Task

LIMITS, EPOCHS, SEED = (0.3, 0.4, 0.2), 24, 0
TEACHER = 56
DISTILLING = {**TRAINING, "lr": 0.05}
GOAL, DROP = 0.3, 1.0
PIXELS, BLOCKS = (32, 28, 24, 20), range(7)
MACS = (0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)
TRIED = 3
"""Shapes that are trained for an epoch, for each latency."""
MARGIN = 0.99
"""A shape holds a latency with this to spare: what is shipped is timed anew."""
TARGET = Target()
ALONE = {"pixels": 32, "blocks": 0, "macs": 1.0}


def shaped(task: Task, shape: dict[str, Any]) -> nn.Module:
    """Return the pretrained network in a shape."""
    model, context = task.build(), Context(seed=SEED, target=TARGET)
    if shape["blocks"]:
        model = Blocks(count=shape["blocks"], score="loss", samples=1024).apply(model, task, context).model
    if shape["pixels"] < 32:
        model = Resolution(size=shape["pixels"]).apply(model, task, context).model
    if shape["macs"] < 1:
        model = Channels(macs=shape["macs"]).apply(model, task, context).model
    return model.eval()


def quantized(task: Task, model: nn.Module, folder: Path, name: str) -> Path:
    """Write a model in INT8."""
    graph = export_onnx(model.eval(), task.inputs()).graph
    return save(
        strip(Static(calibration=512).apply_graph(graph, task, Context(seed=SEED))), folder / f"{name}.onnx"
    )


class Benchmark:
    """The networks, and how long they take."""

    def __init__(self, quick: bool) -> None:
        self.task = make_task(quick)
        self.epochs = 1 if quick else EPOCHS
        self.folder = Path(tempfile.mkdtemp())
        work = self.folder / "arms" if quick else WORK / "resnet20_clock"
        self.arms = Arms(work, None if quick else RESULTS / "resnet20_clock")
        graph = export_onnx(self.task.build().eval(), self.task.inputs()).graph
        self.whole = save(strip(graph), self.folder / "whole.onnx")

    def seen(self, name: str, shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return every shape with its INT8 latency and its accuracy before training, the most accurate first."""

        def arm(folder: Path) -> dict[str, Any]:
            return {"rows": [self._seen(shape) for shape in shapes]}

        rows: list[dict[str, Any]] = self.arms.finish(name, {"shapes": shapes}, arm)["rows"]
        return sorted(rows, key=lambda row: -row["even"])

    def _seen(self, shape: dict[str, Any]) -> dict[str, Any]:
        model = shaped(self.task, shape)
        even = evaluate(model, self.task.data("val"), self.task.resolved_metric()).value * 100
        ratio = latency([self.whole, quantized(self.task, model, self.folder, "cut")], TARGET)[-1].ratio
        say(f"{shape}: {ratio:.3f}x, even {even:.2f}")
        return {"shape": shape, "ratio": ratio, "even": round(float(even), 2)}

    def trained(self, name: str, shape: dict[str, Any], epochs: int) -> dict[str, Any]:
        """Distil a shape, quantize it, time and judge the file."""
        settings = {"shape": shape, "epochs": epochs, "teacher": TEACHER, **DISTILLING}
        return self.arms.finish(name, settings, partial(self._arm, shape, epochs))

    def _arm(self, shape: dict[str, Any], epochs: int, folder: Path) -> dict[str, Any]:
        model = shaped(self.task, shape)
        if shape != ALONE:
            training = {**DISTILLING, "epochs": epochs, "warmup": 0.5, "precision": "bfloat16"}
            context = Context(seed=SEED, folder=folder, emit=listen)
            model = distill(model, make_model(TEACHER), self.task, context=context, **training).model
        file, metric = quantized(self.task, model, self.folder, "trained"), self.task.resolved_metric()
        seen = latency([self.whole, file], TARGET, seconds=2.0)[-1]
        halves = {"even": self.task.data("val"), "odd": self.task.data("test")}
        rows = {half: evaluate_file(file, data, metric).rows[:, 0] > 0.5 for half, data in halves.items()}
        accuracy = {
            half: {"accuracy": float(right.mean() * 100), "correct": packed(right), "count": len(right)}
            for half, right in rows.items()
        }
        floating = evaluate(model.eval(), halves["even"], metric).value * 100
        return {"latency": seen.to_json(), "shape": shape, "float_even": round(float(floating), 2), **accuracy}


def measure(quick: bool) -> Result:
    """Time the shapes, train those that hold, and compare with the unpruned network."""
    threads(quick)
    benchmark = Benchmark(quick)
    limits = LIMITS[:1] if quick else LIMITS
    base = judged(benchmark.task.build(), benchmark.task)
    say(f"unpruned: even {base['even']['accuracy']:.2f}, odd {base['odd']['accuracy']:.2f}")
    grid = [{**ALONE, "pixels": pixels, "blocks": blocks} for pixels in PIXELS for blocks in BLOCKS]
    ours = benchmark.seen("shapes", grid[:: 6 if quick else 1])
    widths = benchmark.seen("widths", [{**ALONE, "macs": macs} for macs in MACS[:: 3 if quick else 1]])
    found = {"int8 alone": benchmark.trained("int8", ALONE, 0)}
    for limit in limits:
        fast, narrow = (
            [row["shape"] for row in rows if row["ratio"] <= MARGIN * limit] for rows in (ours, widths)
        )
        found[f"ours {limit}x"] = _best(benchmark, fast[:TRIED], limit)
        if narrow:
            found[f"widths by MACs {limit}x"] = benchmark.trained(f"macs-{limit}x", narrow[0], benchmark.epochs)
    against = {name: compared([correct(row, "odd")], [correct(base, "odd")]) for name, row in found.items()}
    goal = f"ours {GOAL}x"
    widest = against.get(f"widths by MACs {GOAL}x")
    lost, seen = -against[goal]["points"], found[goal]["latency"]["ratio"]
    return Result(
        value=round(lost, 3),
        unit=f"points lost at {seen:.3f}x of the FP32 latency, INT8",
        goal=f"at most {DROP} point lost at {GOAL}x",
        met=lost <= DROP and seen <= GOAL and not quick,
        peer={
            "name": "channels by MACs, as fast",
            "value": None if widest is None else round(-widest["points"], 3),
        },
        seeds=(SEED,),
        detail={
            "unpruned": {half: base[half]["accuracy"] for half in ("odd", "even")},
            "epochs": benchmark.epochs,
            "shapes": {"ours": ours, "widths": widths},
            **{name: _short(row) | {"against whole": against[name]} for name, row in found.items()},
        },
    )


def _best(benchmark: Benchmark, shapes: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    """Train shapes for an epoch each, and the best on the even half for all epochs."""
    tried = []
    for shape in shapes:
        row = benchmark.trained(f"ours-{limit}x-{shape['pixels']}px-{shape['blocks']}-tried", shape, 1)
        tried.append((row["even"]["accuracy"], shape))
        say(f"{limit}x, {shape}: even {tried[-1][0]:.2f} after an epoch")
    shape = max(tried, key=lambda row: row[0])[1]
    return benchmark.trained(f"ours-{limit}x", shape, benchmark.epochs)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = {half: row[half]["accuracy"] for half in ("odd", "even")}
    return accuracy | {
        "ratio": row["latency"]["ratio"],
        "low": row["latency"]["ratio_low"],
        "high": row["latency"]["ratio_high"],
        "shape": row["shape"],
        "float even": row["float_even"],
        "code": row["code"],
    }


if __name__ == "__main__":
    run("resnet20_clock", measure)
