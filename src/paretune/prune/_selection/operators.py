"""Operators of the captured graph that can be timed alone, at any widths: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from paretune.measure import Convolution, Operator, Product
from paretune.prune._analysis import Analysis
from paretune.prune._couplings.couplings import Cost, Couplings, arguments, shape_of
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.units import Axis

OPERANDS = {
    "addmm": ("mat1", "mat2"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "matmul": ("self", "other"),
}
"""The factors of matrix products, as their schemas name them."""

At = Callable[[Callable[[Axis], int]], Operator]
"""(what tells how much of an axis is kept) -> the operator at those widths."""


@dataclass(frozen=True)
class Placed:
    """An operator of the graph that the table can time."""

    node: fx.Node
    axes: tuple[Axis, ...]
    """Those of its multiply-accumulates that can become shorter."""
    at: At


def placed(analysis: Analysis, batch: int) -> tuple[list[Placed], list[Cost]]:
    """Return the operators that the table can time, and the costs of the others; batch: the target's."""
    state, times = analysis.couplings, batch / analysis.couplings.batch
    found: list[Placed] = []
    others: list[Cost] = []
    seen: dict[fx.Node, int] = {}
    for cost in state.costs:
        turn = seen[cost.node] = seen.get(cost.node, -1) + 1
        at = _at(state, cost.node, turn, times)
        if at is None:
            others.append(cost)
        else:
            found.append(Placed(cost.node, cost.axes, at))
    return found, others


def _at(state: Couplings, node: fx.Node, turn: int, times: float) -> At | None:
    name, given = operator_of(node), arguments(node)
    if name.startswith("conv"):
        return _convolution(
            state, node, given, times, transposed="transpose" in name or bool(given.get("transposed"))
        )
    if name == "linear":
        (*rows, inner), (columns, _) = state.axes(given["input"]), state.axes(given["weight"])
        return lambda kept: Product(1, _many(rows, kept, times), kept(inner), kept(columns), True)
    if name == "scaled_dot_product_attention":
        query, key, value = (state.axes(given[part]) for part in ("query", "key", "value"))
        inner, columns = (query[-1], key[-2]) if turn == 0 else (key[-2], value[-1])
        return lambda kept: Product(
            _many(query[:-2], kept, times), kept(query[-2]), kept(inner), kept(columns), False
        )
    if name in OPERANDS:
        a, b = (state.axes(given[part]) for part in OPERANDS[name])
        if len(a) < 2 or len(b) < 2:
            return None
        if len(b) == 2:  # a weight, or as good as one: every row of the left side reads it
            return lambda kept: Product(1, _many(a[:-1], kept, times), kept(a[-1]), kept(b[-1]), True)
        return lambda kept: Product(_many(a[:-2], kept, times), kept(a[-2]), kept(a[-1]), kept(b[-1]), False)
    return None


def _many(axes: Sequence[Axis], kept: Callable[[Axis], int], times: float) -> int:
    return max(1, round(times * math.prod(kept(axis) for axis in axes)))


def _convolution(
    state: Couplings, node: fx.Node, given: dict[str, Any], times: float, *, transposed: bool
) -> At | None:
    source, shape = given["input"], shape_of(given["weight"])
    before, after = state.axes(source), state.axes(node)
    space = len(shape) - 2
    if len(before) != space + 2:  # without a batch
        return None
    stride, dilation = _each(given["stride"], space), _each(given["dilation"], space)
    padding = given["padding"]
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, shape[2:], strict=True)]
    padding = _each(0 if padding == "valid" else padding, space)
    groups, reads = int(given["groups"]), len(before[1])
    size, batch = tuple(shape_of(source)[2:]), max(1, round(times * shape_of(source)[0]))

    def at(kept: Callable[[Axis], int]) -> Operator:
        now, made = kept(before[1]), kept(after[1])
        parts = now if groups == reads else math.gcd(math.gcd(groups, now), made) if groups > 1 else 1
        return Convolution(batch, now, made, size, shape[2:], stride, padding, dilation, max(1, parts), transposed)

    return at


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * count if len(values) == 1 else values))
