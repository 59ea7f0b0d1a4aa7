"""Latency told from operator times against latency measured, on random cuts of two networks.

Every group of channels keeps a width drawn from those that pruning for the clock considers. The whole network and
its smallest cut are timed first, as pruning does; nothing is fitted to the candidates. Each is cut, exported, and
timed in turns with the whole network, by ONNX Runtime on one thread at batch 1; what was told is the sum of the
operator times at its widths. Multiply-accumulates stand beside it, as what most tools go by. The operators are
timed anew, into a table of this run's own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _cifar10 import make_model
from _common import Result, run, say
from _finetune import threads
from paretune import prune
from paretune.measure import OperatorTable
from paretune.prune._ranking import removed_units
from paretune.prune._selection.by_clock import Knapsack
from paretune.prune._selection.selection import lowest_first
from paretune.prune._selection.timing import Timing
from paretune.target import Target

CANDIDATES, GOAL, WITHIN = 50, 0.9, 0.1
TARGET = Target()


class Encoder(nn.Module):
    """A transformer of four layers on 64 words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8000, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return (batch, 4) scores of (batch, 64) words."""
        scores: torch.Tensor = self.head(self.layers(self.embedding(words)).mean(1))
        return scores


NETWORKS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "resnet20": lambda: (make_model(), torch.randn(1, 3, 32, 32)),
    "transformer": lambda: (Encoder().eval(), torch.randint(0, 8000, (1, 64))),
}


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of values without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def candidates(name: str, count: int, folder: Path) -> dict[str, Any]:
    """Tell and time random cuts of a network; returns what was told and seen, as fractions of the whole's."""
    torch.manual_seed(0)
    analysis = prune.analyze(*NETWORKS[name]())
    timing = Timing(analysis, TARGET, OperatorTable(TARGET, folder))
    ranked, _ = lowest_first(analysis, score="l1")
    knapsack = Knapsack(analysis, ranked, timing.clock, 1)
    smallest = removed_units(ranked, knapsack.path()[-1])
    timing.clock.anchor(analysis.keep(smallest), timing.timed(smallest).ratio)
    generator = np.random.default_rng(0)
    rows: dict[str, list[float]] = {"told": [], "measured": [], "macs": []}
    seconds = 0.0
    for index in range(count):
        removed = removed_units(ranked, [int(generator.choice(stops)) for stops in knapsack.stops])
        start = time.perf_counter()
        rows["told"].append(timing.clock.ratio(analysis.keep(removed)))
        seconds += time.perf_counter() - start
        rows["macs"].append(analysis.macs_of(analysis.keep(removed)) / analysis.macs)
        rows["measured"].append(timing.timed(removed).ratio)
        say(f"{name} {index}: " + ", ".join(f"{key} {values[-1]:.3f}" for key, values in rows.items()))
    told, seen, macs = (np.array(rows[key]) for key in ("told", "measured", "macs"))
    return {
        "rank correlation": round(rank_correlation(told, seen), 4),
        "rank correlation of MACs": round(rank_correlation(macs, seen), 4),
        "median error": round(float(np.median(np.abs(told / seen - 1))), 4),
        "median error of MACs": round(float(np.median(np.abs(macs / seen - 1))), 4),
        "operators timed": timing.clock.table.timed,
        "seconds to tell all": round(seconds, 1),
        "fractions": {key: [round(value, 4) for value in values] for key, values in rows.items()},
    }


def measure(quick: bool) -> Result:
    """Tell and time the candidates of both networks."""
    threads(quick)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: candidates(name, 4 if quick else CANDIDATES, Path(folder)) for name in NETWORKS}
    worst = min(each["rank correlation"] for each in found.values())
    error = max(each["median error"] for each in found.values())
    return Result(
        value=worst,
        unit=f"rank correlation of told and measured latency, the lower of two networks; median error {error:.1%}",
        goal=f"at least {GOAL:g}, and a median error of at most {WITHIN:.0%}",
        met=worst >= GOAL and error <= WITHIN and not quick,
        peer={
            "name": "rank correlation of MACs",
            "value": min(each["rank correlation of MACs"] for each in found.values()),
        },
        detail=found,
    )


if __name__ == "__main__":
    run("latency_model", measure)
