"""Budgets: what a cut model may cost, as a function of what is removed.

MACs, parameters and bytes are counted from the analysis, exactly and without a cut. Latency is told by a clock
(`clock`) and then measured (`timing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from paretune.errors import InputError, is_number
from paretune.prune._couplings.units import Axis
from paretune.prune._selection.timing import Timing
from paretune.prune._surgery.surgery import Keep, kept
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Range, amount
from paretune.target import Target

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

LEAST = 10
"""Of an amount that is counted; a number above 1 and below it was meant as a fraction."""
COUNTS = {"K": 1e3, "M": 1e6, "G": 1e9}
BYTES = {**SIZE_UNITS, "GB": 1e9, "GiB": 1024.0**3}
BUDGETS: dict[str, tuple[dict[str, float], str, str]] = {
    "macs": (COUNTS, "multiply-accumulates", "20M"),
    "params": (COUNTS, "parameters", "1M"),
    "size": (BYTES, "bytes", "200KB"),
    "latency": (LATENCY_UNITS, "ms", "2ms"),
}
"""What may be bounded: the units of an amount, what is counted, and an example of an amount."""
MARGIN = 0.97
"""A timing must hold its bound with this to spare: the shipped model is timed anew, with its own noise."""


@dataclass(frozen=True)
class Budget:
    """A bound, and how to tell what a choice costs."""

    name: str
    asked: float | str
    limit: float
    full: float
    """What the whole model costs."""
    unit: str
    counts: str
    """What is counted where it is asked which channels cost it most: macs or params."""
    cost: Callable[[Axis], float]
    """Units that are removed -> cost."""
    notes: Callable[[Axis], tuple[str, ...]] = lambda removed: ()
    """Units that are removed -> what the user should know of how that cost came about."""
    step: str = "prune.channels"
    """Who asked."""
    timing: Timing | None = None
    """Of a latency: what measures it, and tells it."""

    @property
    def measured(self) -> bool:
        """Whether a cost takes seconds and is known to a few percent only."""
        return self.timing is not None


Amount = Annotated[float | str | None, Range(0.0, math.inf, low_open=True)]
"""A step's field: what to keep, as a fraction (0.5, "0.5x") or as the amount itself (20e6, "20M")."""


def target_amount(name: str, value: float | str, full: float, step: str = "prune.channels") -> float:
    """Return the amount to keep: a fraction of `full` (0.5 or "0.5x"), or the amount itself ("20M", above 1)."""
    units, what, example = BUDGETS[name]
    if isinstance(value, str):
        number, relative = amount(value, units, f"{step}: {name}")
    else:
        number = float(value) if is_number(value) else math.nan
        relative = 0 < number <= 1
    if not number > 0 or (relative and number > 1):
        raise InputError(
            f"{step}: {name}={value} must be above 0 and at most 1, or an amount like '{example}'; "
            f"{name}=0.5 keeps half of the {'time' if name == 'latency' else what}"
        )
    if not relative and name != "latency" and number < LEAST:
        raise InputError(
            f"{step}: {name}={value} is neither a fraction to keep, at most 1, nor an amount that a model "
            f"can have ({number:g} {what}); {name}=0.5 keeps half, and an amount is written like '{example}'"
        )
    return number * full if relative else number


def budget(
    analysis: Analysis, name: str, asked: float | str, target: Target | None = None, step: str = Budget.step
) -> Budget:
    """Return the budget of that name (one of BUDGETS); latency is that on the target. step: who asks."""
    if name == "latency":
        return _timed_budget(Timing(analysis, target or Target()), asked)
    counts: dict[str, Callable[[Keep], float]] = {
        "macs": analysis.macs_of,
        "params": analysis.params_of,
        "size": lambda keep: size_of(analysis, keep),
    }
    count, full = counts[name], counts[name](analysis.everything)
    limit = target_amount(name, asked, full, step)
    of = "macs" if name == "macs" else "params"

    def cost(removed: Axis) -> float:
        return count(analysis.keep(removed))

    return Budget(name, asked, limit, full, BUDGETS[name][1], of, cost, step=step)


def _timed_budget(timing: Timing, asked: float | str) -> Budget:
    whole = timing.timed(np.empty(0, np.int64)).median_ms
    limit = target_amount("latency", asked, whole)
    relative = target_amount("latency", asked, 2 * whole) != limit

    def cost(removed: Axis) -> float:
        seen = timing.timed(removed)
        return seen.ratio * whole if relative else seen.median_ms

    of = "macs"  # where a scope is kept, channels go in their order; what is chosen is timed
    return Budget(
        "latency",
        asked,
        MARGIN * limit,
        whole,
        "ms",
        of,
        cost,
        timing.notes,
        timing=timing,
    )


def size_of(analysis: Analysis, keep: Keep) -> int:
    """Return the bytes of the state dict once only `keep` stays: every parameter and buffer once, in its own type.

    An exported file holds these and a few KB of graph; batch norms that it folds make it a little smaller.
    """
    state, total, seen = analysis.couplings, 0, set[int]()
    grouped = {(read.tensor, read.axis): read.units[0] for read in state.reads if read.units.ndim == 2}
    for name, tensor in analysis.model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        axes = state.tensors.get(name, [np.full(size, -1) for size in tensor.shape])
        left = [int(kept(keep, grouped.get((name, index), axis)).sum()) for index, axis in enumerate(axes)]
        total += math.prod(left) * tensor.element_size()
    return total
