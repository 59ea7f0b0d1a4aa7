"""Seconds to capture a network and to group its channels, against the number of its operators, to 10,000.

Two families grow in depth: residual blocks (convolution, batch norm, addition) and transformer blocks (layer norm,
attention, GELU). Analysis is everything that `prune.analyze` does beside torch.export: the walk, the groups, and
running the model to see what its code follows. The exponent is the slope of log seconds over log operators.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from _common import Result, run, say
from paretune import prune

SIZES, QUICK_SIZES = (100, 300, 1000, 3000, 10_000), (100, 300, 1000)
"""Operators."""
GOAL = 1.2
WIDTH, HEADS, TOKENS = 32, 4, 8


class Residual(nn.Module):
    """Two convolutions with batch norm around which a shortcut runs: 7 operators."""

    operators = 7

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)
        self.conv2, self.bn2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 32, 4, 4) to the same shape."""
        return functional.relu(x + self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))


class Transformer(nn.Module):
    """Attention and a feed-forward block, each behind a layer norm: 19 operators."""

    operators = 19

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, tokens, 32) to the same shape."""
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Network(nn.Module):
    """A stem, blocks, and a classifier on the mean."""

    def __init__(self, block: Callable[[], nn.Module], operators: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 1) if block is Residual else nn.Linear(3, WIDTH)
        count = max(1, round(operators / block.operators))  # type: ignore[attr-defined]
        self.blocks = nn.Sequential(*(block() for _ in range(count)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images or tokens to (n, 10)."""
        x = self.blocks(self.stem(x))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x.mean(1))


EXAMPLES = {Residual: (1, 3, 4, 4), Transformer: (1, TOKENS, 3)}


def measure(quick: bool) -> Result:
    """Time every size of both families; the goal is about the steeper one."""
    torch.set_num_threads(1)
    torch.export.export(
        nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False
    )  # the first export imports half of torch
    found: dict[str, Any] = {}
    for block in (Residual, Transformer):
        rows: list[dict[str, float]] = []
        for size in QUICK_SIZES if quick else SIZES:
            rows.append(_row(block, size, 1 if size > 1000 else 3))
            say(f"{block.__name__}: {rows[-1]}")
            if not quick and len(rows) >= 2 and size < SIZES[-1]:
                later = rows[-1]["capture_s"] + rows[-1]["analysis_s"]
                left = [later * (other / size) ** 1.2 for other in SIZES if other > size]
                say(f"about {sum(left) / 60:.0f} minutes left for this family")
        found[block.__name__] = {
            "rows": rows,
            "exponent": exponent(rows, "analysis_s"),
            "capture_exponent": exponent(rows, "capture_s"),
            "steepest": max(_slope([a, b], "analysis_s") for a, b in pairwise(rows)),
        }
    worst = max(family["exponent"] for family in found.values())
    return Result(
        value=round(worst, 3),
        unit="exponent of analysis seconds over operators, the steeper of two families",
        goal=f"at most {GOAL}, to 10,000 operators",
        met=worst <= GOAL and not quick,
        peer={
            "name": "torch.export alone, same networks",
            "value": round(max(family["capture_exponent"] for family in found.values()), 3),
        },
        detail=found,
    )


def _row(block: Any, size: int, repeats: int) -> dict[str, float]:
    """Return the seconds of capture and analysis of one network, the median of a few."""
    torch.manual_seed(0)
    model, example = Network(block, size).eval(), torch.randn(EXAMPLES[block])
    captures, analyses = [], []
    for _ in range(repeats):
        capture, analysis, operators = timed(model, example)
        captures.append(capture)
        analyses.append(analysis)
    return {
        "operators": operators,
        "layers": sum(not list(module.children()) for module in model.modules()),
        "capture_s": round(median(captures), 3),
        "analysis_s": round(median(analyses), 3),
    }


def timed(model: nn.Module, example: Tensor) -> tuple[float, float, int]:
    """Return the seconds of torch.export, those of the analysis around it, and the operators of the graph."""
    spent = [0.0]
    original = torch.export.export

    def export(*positional: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*positional, **keywords)
        finally:
            spent[0] += time.perf_counter() - start

    torch.export.export = export
    try:
        start = time.perf_counter()
        analysis = prune.analyze(model, example)
        seconds = time.perf_counter() - start
    finally:
        torch.export.export = original
    graph = analysis.captured.program.graph
    return spent[0], seconds - spent[0], sum(node.op == "call_function" for node in graph.nodes)


def exponent(rows: Sequence[dict[str, float]], column: str) -> float:
    """Return the slope of log seconds over log operators by least squares, from 300 operators on.

    Below, what is paid once (imports, the first call of every operator) hides what grows.
    """
    return _slope([row for row in rows if row["operators"] >= 250] or list(rows), column)


def _slope(rows: Sequence[dict[str, float]], column: str) -> float:
    x, y = (np.log([row[name] for row in rows]) for name in ("operators", column))
    return round(float(np.polyfit(x, y, 1)[0]), 3)


if __name__ == "__main__":
    run("group_cost", measure)
