"""Activations of inverted residual blocks removed and their layers folded: how much faster, and at what cost.

The three blocks (1x1 to six times the channels, depthwise 3x3, 1x1 back; batch norm behind each, no padding, no
skip) are trained here on the bundled digits, enlarged threefold, once for each seed. `prune.activations` removes
2, 4 and all 6 of their activations by the loss on 256 training images, and what is left is trained for a few more
epochs. Latency is that of ONNX Runtime on one thread, in turns with the network as trained. Nothing is chosen by
the accuracy that is told.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _common import Result, run, say
from paretune import prune
from paretune.evaluation import evaluate
from paretune.export import export_onnx, save, strip
from paretune.measure import latency
from paretune.recipe import Context
from paretune.target import Target
from paretune.task import Task
from paretune.train import fit
from paretune.zoo import digits, normalise

COUNTS, SEEDS, EPOCHS, AFTER, SAMPLES = (2, 4, 6), (0, 1), 20, 5, 256
GOAL = 4
"""So many of the six activations go for the number that is told."""
FIXED: dict[str, Any] = {"precision": "float32", "layout": "contiguous"}


def block(channels: int, wider: int = 6) -> list[nn.Module]:
    """Return one inverted residual block without its skip."""
    inner = channels * wider
    return [
        *(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
        *(nn.Conv2d(inner, inner, 3, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
        *(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)),
    ]


def network() -> nn.Module:
    """Return the network: a convolution, three blocks, global average pooling, a linear layer."""
    stem = [nn.Upsample(scale_factor=3), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardswish()]
    blocks = [module for _ in range(3) for module in block(16)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def make_task() -> Task:
    """Return the digits, and nothing held back that a choice is made by."""
    splits = {
        split: (normalise(images, mean=[0.3], std=[0.38], scale=16.0), labels.astype(np.int64))
        for split, (images, labels) in digits().items()
    }
    return Task(name="digits", model=network, train=splits["train"], val=splits["val"], batch_size=64)


def measure(quick: bool) -> Result:
    """Train, remove, train on, and time."""
    torch.set_num_threads(1)
    task = make_task()
    seeds = SEEDS[:1] if quick else SEEDS
    epochs, after = (4, 1) if quick else (EPOCHS, AFTER)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        torch.manual_seed(seed)
        how = {"context": Context(seed=seed), "keep_best": False, **FIXED}
        model = fit(task.build(), task, epochs=epochs, lr=1e-2, **how).model.eval()
        models = [model]
        found = [{"seed": seed, "removed": 0, "trained": accuracy(model, task)}]
        for count in COUNTS:
            pruned = prune.activations(
                model,
                task.inputs(),
                data=task.data("train"),
                loss="cross_entropy",
                count=count,
                samples=SAMPLES,
                seed=seed,
                protect="3",  # the stem's
            )
            row = {"seed": seed, "removed": count, "folds": [list(names) for names in pruned.folds]}
            row |= {
                "macs": pruned.after["macs"] / pruned.before["macs"],
                "right after": accuracy(pruned.model, task),
            }
            models.append(fit(pruned.model, task, epochs=after, lr=3e-3, **how).model.eval())
            found.append(row | {"trained": accuracy(models[-1], task)})
        for row, timed in zip(found, timings(models, task, quick), strict=True):
            rows.append(row | timed)
            say(str(rows[-1]))
    chosen = [row for row in rows if row["removed"] == GOAL]
    return Result(
        value=round(float(np.mean([row["ratio"] for row in chosen])), 3),
        unit=f"x the latency once {GOAL} of 6 activations went",
        goal="faster for certain: the whole interval below 0.98x",
        met=all(row["high"] < 0.98 for row in chosen) and not quick,
        seeds=seeds,
        detail={"epochs": epochs, "epochs after": after, "rows": rows},
    )


def accuracy(model: nn.Module, task: Task) -> float:
    """Return the validation accuracy in percent."""
    return round(100 * evaluate(model.eval(), task.data("val"), task.resolved_metric()).value, 2)


def timings(models: list[nn.Module], task: Task, quick: bool) -> list[dict[str, float]]:
    """Return the latency of each network as a file, and its ratio to the first."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.onnx" for index in range(len(models))]
        for model, file in zip(models, files, strict=True):
            save(strip(export_onnx(model, task.inputs()).graph), file)
        timed = latency(files, Target(threads=1), seconds=0.5 if quick else 2.0)
    return [{"ms": t.median_ms, "ratio": t.ratio, "low": t.ratio_low, "high": t.ratio_high} for t in timed]


if __name__ == "__main__":
    run("activations_digits", measure)
