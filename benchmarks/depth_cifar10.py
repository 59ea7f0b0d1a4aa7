"""Depth against width at equal measured latency: blocks of ResNet-20 removed, or channels, and the same training.

At each latency (ONNX Runtime, float, batch 1, one thread) one arm removes whole blocks by the loss on training
images (`prune.blocks(latency=)`), one removes channels by the clock (`prune.channels(latency=)`), one channels by
their multiply-accumulates until the latency holds. All are trained alike, with the unpruned network as teacher;
the epoch that is best on the even test images is kept. Activations are tried too: those of ResNet-20 stand between
3x3 convolutions, and two of these in one are a 5x5 with 1.4 times the multiply-accumulates, so that nothing is
folded and nothing gets faster; `activations_digits.py` has a network where it does. Accuracy is that of the odd
test images.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from _arms import WORK, Arms, compared
from _cifar10 import make_task
from _common import RESULTS, Result, run, say
from _finetune import TRAINING, correct, judged, listen, threads
from paretune.distill import distill
from paretune.prune import Activations, Blocks, Channels
from paretune.prune._stopwatch import Stopwatch
from paretune.recipe import Context, Step
from paretune.target import Target
from paretune.task import Task

LATENCIES, EPOCHS, SEED = (0.7, 0.5), 6, 0
DEPTH = "blocks"
TARGET = Target()


def steps(latency: float) -> dict[str, Step]:
    """Return the ways to a latency, by name."""
    return {
        DEPTH: Blocks(latency=f"{latency}x", score="loss", samples=1024),
        "channels by the clock": Channels(latency=f"{latency}x"),
        "channels by MACs": Channels(latency=f"{latency}x", scope="isomorphic"),
    }


def measure(quick: bool) -> Result:
    """Cut, train and time every arm, and compare depth with the best of widths at each latency."""
    threads(quick)
    task = make_task(quick)
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "depth_cifar10"
    arms = Arms(folder, None if quick else RESULTS / "depth_cifar10")
    base = judged(task.build(), task)
    latencies, epochs = (LATENCIES[:1], 1) if quick else (LATENCIES, EPOCHS)
    table: dict[str, Any] = {}
    for latency in latencies:
        ways = dict(list(steps(latency).items())[: 2 if quick else None])
        rows = {
            name: arms.finish(
                f"{name.replace(' ', '-')}-{latency}x",
                {"latency": latency, "epochs": epochs, "step": step.parameters(), **TRAINING},
                partial(_arm, task, step, epochs),
            )
            for name, step in ways.items()
        }
        for name, row in rows.items():
            say(f"{latency}x, {name}: {row['ratio']:.3f}x, odd {row['odd']['accuracy']:.2f}")
        widths = max((n for n in rows if n != DEPTH), key=lambda n: rows[n]["even"]["accuracy"])
        odd = {name: [correct(row, "odd")] for name, row in rows.items()}
        table[f"{latency}x"] = {
            "depth against": widths,
            **compared(odd[DEPTH], odd[widths]),
            "arms": {name: _short(row) for name, row in rows.items()},
        }
    worst = min(row["points"] for row in table.values())
    return Result(
        value=round(worst, 3),
        unit="points of accuracy of blocks removed above channels removed, the least of all latencies",
        goal="the better of depth and width at equal measured latency, told",
        met=not quick,
        peer={"name": "channels, the better way on the even half", "value": 0},
        seeds=(SEED,),
        detail={
            "unpruned": {half: base[half]["accuracy"] for half in ("odd", "even")},
            "epochs": epochs,
            "activations": _activations(task),
            **table,
        },
    )


def _arm(task: Task, step: Step, epochs: int, folder: Path) -> dict[str, Any]:
    cut = step.apply(task.build(), task, Context(seed=SEED, target=TARGET))
    seen = Stopwatch(task.build().eval(), task.inputs(), TARGET).time(cut.model.eval())
    before = {half: judged(cut.model, task)[half]["accuracy"] for half in ("even", "odd")}
    training = {**TRAINING, "epochs": epochs, "warmup": min(0.5, epochs / 2), "precision": "bfloat16"}
    context = Context(seed=SEED, folder=folder, emit=listen)
    fitted = distill(cut.model, task.build(), task, context=context, **training)
    kept = {key: cut.details["after"][key] / cut.details["before"][key] for key in ("macs", "params")}
    told = {"ratio": seen.ratio, "low": seen.ratio_low, "high": seen.ratio_high, "notes": list(cut.notes)}
    return {**kept, **told, "before": before, **judged(fitted.model, task)}


def _activations(task: Task) -> dict[str, float]:
    """Return what three activations less save: the multiply-accumulates and the latency that are left."""
    cut = Activations(count=3).apply(task.build(), task, Context(seed=SEED))
    seen = Stopwatch(task.build().eval(), task.inputs(), TARGET).time(cut.model.eval())
    return {"macs": cut.details["after"]["macs"] / cut.details["before"]["macs"], "ratio": seen.ratio}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = {half: row[half]["accuracy"] for half in ("odd", "even")}
    return accuracy | {
        key: row[key] for key in ("ratio", "low", "high", "macs", "params", "before", "notes", "code")
    }


if __name__ == "__main__":
    run("depth_cifar10", measure)
