"""What an epoch costs when it trains for sparsity, or learns gates, against a plain one: ResNet-20 on CIFAR-10.

Each way trains one epoch on the same images, one after the other in rounds, the order turned from round to
round; the ratio to the plain epoch of the same round is taken, and its median over rounds. Only the epoch is
timed, as `fit` tells it, not what a method does before and after. Training is in float32 with the default
layout, so that nothing is timed by trial, and without validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from _cifar10 import make_task
from _common import Result, run, say
from _finetune import TRAINING, threads
from paretune import prune
from paretune.task import Task
from paretune.train import fit

IMAGES, ROUNDS, GOAL = 5120, 5, 1.15
FIXED: dict[str, Any] = {**TRAINING, "epochs": 1, "warmup": 0.0, "precision": "float32", "layout": "contiguous"}
PLAIN = "plain"


def ways() -> dict[str, Callable[[nn.Module, Task], float]]:
    """Return every way of training an epoch, by name: (model, task) -> seconds."""
    gated = {key: value for key, value in FIXED.items() if key != "optimizer"} | {"weights_optimizer": "sgd"}
    found: dict[str, Callable[[nn.Module, Task], float]] = {
        PLAIN: lambda model, task: fit(model, task, **FIXED).seconds,
        "l1": lambda model, task: _seconds(prune.sparse(model, task, strength=1e-5, **FIXED)),
        "proximal": lambda model, task: _seconds(prune.sparse(model, task, strength=1e-5, proximal=True, **FIXED)),
        "group_lasso": lambda model, task: _seconds(
            prune.group_lasso(model, task, macs=0.5, repair=0, recalibrate=0, **FIXED)
        ),
        "greg": lambda model, task: _seconds(prune.greg(model, task, macs=0.5, repair=0, recalibrate=0, **FIXED)),
        "beta": lambda model, task: _seconds(
            prune.learned(model, task, macs=0.5, repair=0, recalibrate=0, **gated)
        ),
    }
    for criterion in ("magnitude", "movement", "dynamic_surgery", "rigl"):
        found[f"gradual, {criterion}"] = lambda model, task, criterion=criterion: _seconds(
            prune.gradual(model, task, ratio=0.9, criterion=criterion, **FIXED)
        )
    return found


def _seconds(made: Any) -> float:
    return float(made.fitted.seconds)


def measure(quick: bool) -> Result:
    """Train in every way, in rounds, and compare."""
    threads(quick)
    whole = make_task(quick)
    train = tuple(part[: 256 if quick else IMAGES] for part in whole.train)
    task = dataclasses.replace(whole, train=train, val=None, test=None)
    rounds = 1 if quick else ROUNDS
    ways()[PLAIN](task.build(), task)  # the first epoch of a process is slower
    table: dict[str, list[float]] = {name: [] for name in ways()}
    for number in range(rounds):
        names = list(table)
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            table[name].append(ways()[name](task.build(), task))
        told = {name: round(seen[-1] / table[PLAIN][-1], 3) for name, seen in table.items()}
        say(f"round {number + 1} of {rounds}: {told}")
    ratios = {name: np.array(seen) / np.array(table[PLAIN]) for name, seen in table.items() if name != PLAIN}
    medians = {name: round(float(np.median(seen)), 3) for name, seen in ratios.items()}
    worst = max(medians, key=lambda name: medians[name])
    return Result(
        value=medians[worst],
        unit=f"of the time of a plain epoch, the most of {len(medians)} ways ({worst})",
        goal=f"at most {GOAL}",
        met=medians[worst] <= GOAL and not quick,
        peer={"name": "a plain epoch", "value": 1.0},
        detail={
            "median ratios": medians,
            "ratios by round": {name: [round(float(r), 3) for r in seen] for name, seen in ratios.items()},
            "plain epoch, seconds": [round(s, 2) for s in table[PLAIN]],
            "images": len(train[0]),
        },
    )


if __name__ == "__main__":
    run("masked_epoch", measure)
