"""Half of the units of LeNet-300-100 on MNIST, without data and without training: merged, or simply removed.

The network is trained here, once for each seed. Ours is `prune.neighbours` at its defaults, which looks at weights
alone; beside it the removal of the units with the smallest weights (L1, the same number in every layer; and over
both layers together), the same choice without merging, and, for what data are worth, the choice by activations and
the repair of `prune.channels` in closed form on 2,048 training images. Nothing is chosen by any accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from _common import Result, run, say
from _finetune import threads
from _mnist import make_task
from paretune import prune
from paretune.evaluation import evaluate
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import fit

RATIO, SEEDS, EPOCHS, GOAL = 0.5, (0, 1, 2), 6, 10.0
SAMPLES = 2048
OURS, PLAIN = "neighbours", "l1"


def ways(task: Task) -> dict[str, Callable[[nn.Module], Any]]:
    """Return every way of removing half of the units, by name."""
    example, data = task.inputs(), task.data("train")
    seen = {"data": data, "samples": SAMPLES}
    return {
        OURS: lambda model: prune.neighbours(model, example, ratio=RATIO),
        "neighbours, not merged": lambda model: prune.neighbours(model, example, ratio=RATIO, merge=False),
        PLAIN: lambda model: prune.channels(model, example, ratio=RATIO, scope="local", score="l1"),
        "l1, both layers together": lambda model: prune.channels(model, example, ratio=RATIO, score="l1"),
        "neighbours by activations": lambda model: prune.neighbours(
            model, example, ratio=RATIO, of="activations", **seen
        ),
        "l1, repaired": lambda model: prune.channels(
            model, example, ratio=RATIO, scope="local", score="l1", **seen
        ),
    }


def trained(task: Task, seed: int, epochs: int) -> nn.Module:
    """Return the network trained from a seed."""
    torch.manual_seed(seed)
    return fit(task.build(), task, epochs=epochs, lr=1e-3, context=Context(seed=seed)).model


def measure(quick: bool) -> Result:
    """Train, remove in every way, and compare on the test images."""
    threads(quick)
    task = make_task(quick)
    seeds, epochs = (SEEDS[:1], 1) if quick else (SEEDS, EPOCHS)
    table: dict[str, list[float]] = {}
    for seed in seeds:
        model = trained(task, seed, epochs)
        for name, way in {"whole": lambda model: model, **ways(task)}.items():
            pruned = way(model)
            accuracy = evaluate(getattr(pruned, "model", pruned).eval(), task.data("test"), task.resolved_metric())
            table.setdefault(name, []).append(round(100 * accuracy.value, 2))
            say(f"seed {seed}, {name}: {table[name][-1]:.2f}")
    gained = [ours - plain for ours, plain in zip(table[OURS], table[PLAIN], strict=True)]
    return Result(
        value=round(float(np.mean(gained)), 2),
        unit=f"points of test accuracy above L1 removal, at {RATIO:g} of the units of every layer",
        goal=f"at least {GOAL:g} points better, without data or training",
        met=float(np.mean(gained)) >= GOAL and not quick,
        peer={"name": "l1 removal", "value": round(float(np.mean(table[PLAIN])), 2)},
        seeds=seeds,
        detail={"epochs": epochs, "gained by seed": [round(g, 2) for g in gained], "test accuracy by seed": table},
    )


if __name__ == "__main__":
    run("neighbours_mnist", measure)
