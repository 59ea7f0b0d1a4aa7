"""Places: which gates lie at which positions of an axis, and which weights read what is gated.

A unit of a group has one gate, wherever it lies: channels that must be cut together open and close together. Where
an axis holds products (heads times the width of a head), a position is open as far as all its factors are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paretune.prune._analysis import Analysis
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.parts import tensor_of
from paretune.prune._couplings.rules.contraction import source_of
from paretune.prune._couplings.units import Axis, Units

_UNREAD = "no layer with weights reads them"


@dataclass(frozen=True)
class Read:
    """An axis of a weight that reads gated channels."""

    tensor: str
    axis: int
    gates: NDArray[np.int64]
    """(blocks, length, factors): the gates of every position; one past the last gate where there is none."""


@dataclass(frozen=True)
class Places:
    """The gates of some groups: those of one group side by side, in the order of its blocks."""

    groups: tuple[Group, ...]
    starts: tuple[int, ...]
    """Of each group the number of its first gate, and at the end how many there are."""
    of_unit: NDArray[np.int64]
    """For every unit its gate, one past the last where it has none."""

    @property
    def count(self) -> int:
        """How many gates there are."""
        return self.starts[-1]

    @property
    def labels(self) -> dict[str, int]:
        """How many gates each group has, by its label."""
        return {g.label: b - a for g, a, b in zip(self.groups, self.starts, self.starts[1:], strict=False)}

    def spans(self) -> list[slice]:
        """Return for every group where its gates lie."""
        return [slice(a, b) for a, b in zip(self.starts, self.starts[1:], strict=False)]

    def groups_at(self, gates: NDArray[np.int64]) -> list[int]:
        """Return the indices of the groups that some gates belong to."""
        real = np.unique(gates[gates < self.count])
        return np.unique(np.searchsorted(self.starts, real, side="right") - 1).tolist()  # type: ignore[no-any-return]

    def on(self, units: Units, axis: Axis) -> NDArray[np.int64]:
        """Return (length, factors): the gates at every position of an axis."""
        found = units.factors(axis)
        return np.where(found >= 0, self.of_unit[np.maximum(found, 0)], self.count)


def places_of(groups: Sequence[Group], units: Units) -> Places:
    """Number the gates of some groups."""
    starts = np.cumsum([0, *(group.blocks.size for group in groups)])
    of_unit = np.full(units.count, starts[-1])
    for group, start in zip(groups, starts, strict=False):
        of_unit[group.blocks.ravel()] = np.arange(start, start + group.blocks.size)
    return Places(tuple(groups), tuple(starts.tolist()), of_unit)


def reads_of(analysis: Analysis, places: Places) -> list[Read]:
    """Return every axis of a weight that reads gated channels, each once however often the weight is used."""
    found: dict[tuple[str, int], Read] = {}
    for where in analysis.couplings.reads:
        gates = np.stack([places.on(analysis.couplings.units, row) for row in np.atleast_2d(where.units)])
        if (gates < places.count).any():
            found.setdefault((where.tensor, where.axis), Read(where.tensor, where.axis, gates))
    return list(found.values())


def gated(analysis: Analysis, groups: Sequence[Group]) -> tuple[list[Group], list[tuple[Group, str]]]:
    """Return the groups that gates can be put on, and the others with the reason.

    A gate is put on the weights that read a channel: there must be some, all must be plain parameters, and nothing
    else may sum over the channels, as products of queries and keys do.
    """
    modules = dict(analysis.model.named_modules())
    places = places_of(groups, analysis.couplings.units)
    found: dict[int, list[str]] = defaultdict(list)
    for read in reads_of(analysis, places):
        problem = _problem(analysis.model, modules[read.tensor.rpartition(".")[0]], read.tensor)
        for index in places.groups_at(read.gates):
            found[index].append(problem)
    state = analysis.couplings
    for masking in state.maskings:
        if not masking.statistic and source_of(state, masking.argument) is None:
            for index in places.groups_at(places.on(state.units, masking.units.ravel())):
                found[index].append("they are summed over where no weight holds their gates")
    why = {index: next(filter(None, found.get(index, [_UNREAD])), "") for index in range(len(groups))}
    can = [group for index, group in enumerate(groups) if not why[index]]
    return can, [(group, why[index]) for index, group in enumerate(groups) if why[index]]


def _problem(model: nn.Module, module: nn.Module, tensor: str) -> str:
    if isinstance(module, nn.RNNBase):
        return f"{tensor} reads them, and weights of a recurrent layer cannot be replaced while it runs"
    if not isinstance(tensor_of(model, tensor), nn.Parameter):
        return f"{tensor}, which reads them, is no parameter"
    return ""
