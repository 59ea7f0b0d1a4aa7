"""LeNet-300-100 and LeNet-5 on MNIST: how few of their weights are left at no loss of accuracy.

Weights left are the parameters that are not zero, biases included, as a part of all parameters. Deep Compression
leaves 8 % of each network, dynamic network surgery 1.8 % and 0.9 %. Ours: `prune.sparse` (proximal, of biases
too) trains the dense base on under an L1 penalty, then `prune.gradual` takes the smallest parameters of the whole
network, at a learning rate that starts anew; every size starts from the network under the penalty.

No loss means that the test accuracy is at least that of the network's own dense base, at the size of the goal and
for every seed. Methods, rates and sizes were chosen on the 5,000 validation images with seed 0; each training ends
with its last epoch, so that nothing is chosen here. Beside it is told what the dense base reaches when it is
trained on as it is under the penalty, with weight decay instead: no loss against a base that was trained plainly,
as those of the papers were, is less than no loss against the best dense network.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
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
from paretune.zoo import lenet5, lenet_300_100

SEEDS = (0, 1)
LONGER = "dense, trained on with weight decay"
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1}


@dataclass(frozen=True, kw_only=True)
class Lenet:
    """A network, and how it is trained and pruned."""

    network: Callable[[], nn.Module]
    below: float
    """The goal: percent of the parameters that are left, biases included."""
    layout: str
    dense: int
    """Epochs of the dense base."""
    strength: float
    """Of the L1 penalty."""
    shrunk: int
    """Epochs under the penalty."""
    smoothing: float
    """Of the labels while weights go; on validation data it helped LeNet-5 and not LeNet-300-100."""
    sizes: dict[float, int]
    """Epochs by percent left; the first below the goal is the one that is judged."""

    @property
    def judged(self) -> float:
        """Return the percent left that the goal is about."""
        return next(size for size in self.sizes if size < self.below)


LENETS = {
    "LeNet-300-100": Lenet(
        network=lenet_300_100, below=1.5, layout="contiguous", dense=12, strength=1e-3, shrunk=20, smoothing=0.0,
        sizes={3.0: 8, 1.49: 15, 1.0: 10},
    ),
    "LeNet-5": Lenet(
        network=lenet5, below=0.8, layout="channels_last", dense=6, strength=3e-3, shrunk=6, smoothing=0.1,
        sizes={0.79: 9, 0.5: 5},
    ),
}  # fmt: skip


def measure(quick: bool) -> Result:
    """Train, shrink, prune to each size, and compare with the dense base on the test images."""
    threads(quick)
    seeds = SEEDS[:1] if quick else SEEDS
    rows = [row for name in LENETS for seed in seeds for row in rows_of(name, seed, quick)]
    judged = [row for row in rows if row["judged"]]
    gained = {
        f"{name}, {LENETS[name].judged:g} % left": [row["gained"] for row in judged if row["network"] == name]
        for name in LENETS
    }
    best = [row for row in rows if row["what"] == LONGER]
    worst = min(row["gained"] for row in judged)
    return Result(
        value=worst,
        unit="points of test accuracy above the dense base, the worst of two networks and all seeds, at "
        + " and ".join(f"{lenet.judged:g} %" for lenet in LENETS.values())
        + " of the weights",
        goal="no loss, LeNet-300-100 below 1.5 % and LeNet-5 below 0.8 % of the weights",
        met=worst >= 0 and all(row["left"] < LENETS[row["network"]].below for row in judged) and not quick,
        peer={
            "name": f"{LONGER}, mean of both",
            "value": round(float(np.mean([row["gained"] for row in best])), 2),
        },
        seeds=seeds,
        detail={
            "gained": gained,
            "rows": rows,
            "published, percent left": {"Deep Compression": [8, 8], "dynamic network surgery": [1.8, 0.9]},
        },
    )


def rows_of(name: str, seed: int, quick: bool) -> list[dict[str, Any]]:
    """Return what one network reaches with one seed: dense, shrunk, at every size, trained on."""
    lenet = LENETS[name]
    task = dataclasses.replace(make_task(quick), model=lenet.network)
    how = {"context": Context(seed=seed), "precision": "float32", "layout": lenet.layout}
    rows: list[dict[str, Any]] = []

    def tell(what: str, model: nn.Module, judged: bool = False) -> None:
        accuracy = {split: accuracy_of(model, task, split) for split in ("val", "test")}
        dense = rows[0]["test"] if rows else accuracy["test"]
        row = {"network": name, "seed": seed, "what": what, "left": left_of(model), **accuracy}
        rows.append(row | {"gained": round(accuracy["test"] - dense, 2), "judged": judged})
        say(str(rows[-1]))

    def epochs(full: int) -> int:
        return 1 if quick else full

    torch.manual_seed(seed)
    dense = fit(task.build(), task, epochs=epochs(lenet.dense), lr=1e-3, keep_best=False, **how).model
    tell("dense", dense)
    penalty = {"strength": lenet.strength, "proximal": True, "names": "*"}
    shrunk = prune.sparse(
        dense, task, epochs=epochs(lenet.shrunk), weight_decay=0.0, **penalty, **SGD, **how
    ).model
    tell("under the L1 penalty", shrunk)
    for size, long in lenet.sizes.items():
        ramp = {"ratio": 1 - size / 100, "names": "*", "end": 0.5, "every": 50}
        plain = {"weight_decay": 0.0, "label_smoothing": lenet.smoothing}
        model = prune.gradual(shrunk, task, epochs=epochs(long), **ramp, **plain, **SGD, **how).model
        tell(f"{size:g} % left", model, judged=size == lenet.judged)
    decayed = {"weight_decay": 5e-4, "label_smoothing": lenet.smoothing, "keep_best": False}
    longer = fit(copy.deepcopy(dense), task, epochs=epochs(lenet.shrunk), **decayed, **SGD, **how).model
    tell(LONGER, longer)
    return rows


def accuracy_of(model: nn.Module, task: Task, split: str) -> float:
    """Return the accuracy in percent."""
    return round(100 * evaluate(model.eval(), task.data(split), task.resolved_metric()).value, 2)


def left_of(model: nn.Module) -> float:
    """Return the percent of all parameters that are not zero."""
    parameters = list(model.parameters())
    rest = sum(int(parameter.count_nonzero()) for parameter in parameters)
    return round(100 * rest / sum(parameter.numel() for parameter in parameters), 3)


if __name__ == "__main__":
    run("lenets_mnist", measure)
