"""The clock: what a cut model takes on the target, told from the times of its operators before anything is cut.

Every convolution and matrix product of the captured graph is looked up, at the widths that are kept, in a table
of operator times (`measure.OperatorTable`), which times what is new to it. What lies between them (sums, norms,
softmax, changes of layout) is told from the runtime's profile of the whole model, and shrinks with the values
that it writes. The whole model and its smallest cut, timed, set the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paretune.errors import RunError
from paretune.measure import Event, OperatorTable
from paretune.prune._analysis import Analysis
from paretune.prune._couplings.groups import layer_name
from paretune.prune._couplings.units import Axis
from paretune.prune._selection.operators import Placed, placed
from paretune.prune._surgery.surgery import Keep

BETWEEN = "between the operators: sums, norms, activations, changes of layout"
FIXED = "calls that no width makes shorter"
OTHERS = "products that cannot be timed alone"

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Term:
    """A part of the time."""

    name: str
    axes: Axes
    """What makes it shorter."""
    ms: Callable[[Keep], float]


class Clock:
    """Tells the time of a cut model in milliseconds, as a sum of terms."""

    def __init__(self, analysis: Analysis, table: OperatorTable, profile: Sequence[Event], whole: float) -> None:
        """profile, whole: what the runtime ran of the whole model on the target, and milliseconds of a call.

        A kernel that is profiled seems to take longer, small ones by half: what all together seem to take more
        than a call does is taken off every one.
        """
        self.analysis, self.table, self._stretch = analysis, table, 1.0
        batch, everything = table.target.batch, analysis.everything
        timeable, others = self._placed(batch)
        between = [event for event in profile if not event.multiplies]
        self.watching = max(0.0, (sum(event.ms for event in profile) - whole) / max(1, len(profile)))
        """Milliseconds."""
        least = min((event.ms for event in between), default=0.0)
        self.terms = [self._operator(each) for each in timeable]
        if others:
            products = [event.ms - self.watching for event in profile if event.multiplies]
            rest = sum(products) - self.ms(everything)
            self.terms += self._spread(OTHERS, [(max(0.0, rest), others)])
        values = self._values(batch / analysis.couplings.batch)
        every = [axes for found in values.values() for axes in found]
        self.terms += self._spread(
            BETWEEN, [(event.ms - least, values.get(event.shape, every)) for event in between]
        )
        fixed = whole - self.ms(everything)
        self.terms.append(Term(FIXED, (), lambda keep: fixed))
        self._whole = self.ms(everything)

    def _placed(self, batch: int) -> tuple[list[Placed], list[Axes]]:
        """Return the operators that the table can time, and the axes of the products of the others."""
        found, others = placed(self.analysis, batch)
        axes, timeable = [cost.axes for cost in others], []
        for each in found:
            try:
                self.table.time(each.at(len))
                timeable.append(each)
            except RunError:
                axes.append(each.axes)
        return timeable, axes

    def ms(self, keep: Keep, terms: Iterable[Term] | None = None) -> float:
        """Return the time once only `keep` stays: of all terms, or of some."""
        return sum(term.ms(keep) for term in (self.terms if terms is None else terms))

    def ratio(self, keep: Keep) -> float:
        """Return the time once only `keep` stays, as a fraction of the whole model's."""
        return 1 - self._stretch * (1 - self.ms(keep) / self._whole)

    def ms_at(self, ratio: float) -> float:
        """Return the milliseconds (of the sum of terms) at which a ratio is told."""
        return self._whole * (1 - (1 - ratio) / self._stretch)

    def anchor(self, keep: Keep, ratio: float) -> None:
        """Say what the smallest cut takes, as measured: others are told on the way from the whole model to it."""
        self._stretch = 1.0
        told = self.ratio(keep)
        if ratio < 1 and told < 1:
            self._stretch = (1 - ratio) / (1 - told)

    def touched(self, units: Axis) -> list[Term]:
        """Return the terms that change where some of these units go."""
        goes = ~self.analysis.keep(units)
        return [term for term in self.terms if any(goes[axis[axis >= 0]].any() for axis in term.axes)]

    def parts(self, keep: Keep) -> dict[str, float]:
        """Return milliseconds by what takes them, the longest first."""
        parts: dict[str, float] = {}
        for term in self.terms:
            parts[term.name] = parts.get(term.name, 0.0) + term.ms(keep)
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def _operator(self, each: Placed) -> Term:
        def ms(keep: Keep) -> float:
            time = self.table.time(each.at(lambda axis: self.analysis.length(axis, keep)))
            return max(0.0, time.ms - self.watching * time.calls)

        named = self.analysis.couplings.parameters
        weights = [named[node] for node in each.node.all_input_nodes if node in named]
        return Term(layer_name(weights[0]) if weights else each.node.name, each.axes, ms)

    def _spread(self, name: str, times: Iterable[tuple[float, Sequence[Axes]]]) -> list[Term]:
        """Return terms of (milliseconds, values that share them evenly); each goes with the size of its value."""
        shares: dict[tuple[int, ...], tuple[float, Axes]] = {}
        for ms, values in times:
            for value in values:
                key = tuple(map(id, value))
                shares[key] = shares.get(key, (0.0, value))[0] + ms / len(values), value
        return [self._sized(name, ms, axes) for ms, axes in shares.values() if ms]

    def _sized(self, name: str, whole: float, axes: Axes) -> Term:
        full = math.prod(map(len, axes))

        def ms(keep: Keep) -> float:
            return whole * math.prod(self.analysis.length(axis, keep) for axis in axes) / max(1, full)

        return Term(name, axes, ms)

    def _values(self, times: float) -> dict[tuple[int, ...], list[Axes]]:
        """Return the axes of the graph's values by their shape on the target; equal ones count once."""
        found: dict[tuple[int, ...], dict[tuple[int, ...], Axes]] = {}
        for node, value in self.analysis.couplings.values.items():
            if (
                node.op == "call_function"
                and isinstance(value, list)
                and value
                and isinstance(value[0], np.ndarray)
            ):
                axes: Axes = tuple(axis for axis in value if isinstance(axis, np.ndarray))
                shape = (round(len(axes[0]) * times), *(len(axis) for axis in axes[1:]))
                found.setdefault(shape, {})[tuple(map(id, axes))] = axes
        return {shape: list(each.values()) for shape, each in found.items()}
