"""Ranking: in each group, the order in which bundles go, and which must stay.

Scores of coupled slices are combined by a stated rule (mean by default). Layers of different fan-in do not
compare raw, so for a global ranking every group's scores are divided by their mean (as in Fang et al.,
"Isomorphic Pruning for Vision Models", ECCV 2024, arXiv:2407.04616, where unlike structures are not ranked
against each other raw).

Of every axis of every tensor that could be emptied, the best unit stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paretune.prune._couplings import Couplings
from paretune.prune._groups import Group
from paretune.prune._units import Axis

Score = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Ranked:
    """A group with its bundles in the order in which they go."""

    group: Group
    bundles: NDArray[np.int64]
    """(n, parts) units, the first to go first; those that must stay are left out."""
    scores: NDArray[np.float64]
    """(n,), comparable across groups where they were normalised."""


def rank(
    model: nn.Module,
    state: Couplings,
    groups: Sequence[Group],
    score: Score,
    combine: str,
    *,
    normalise: bool,
) -> list[Ranked]:
    """Score the units of every group and put their bundles in the order in which they go.

    normalise: divide the scores of each group by their mean, so that groups compare.
    """
    cache: dict[tuple[str, int], NDArray[np.float64]] = {}
    found = []
    for group in groups:
        scores = _unit_scores(model, state, group, score, combine, cache)
        found.append(scores / max(float(scores.mean()), 1e-30) if normalise else scores)
    return _order(state, groups, found)


def _unit_scores(
    model: nn.Module,
    state: Couplings,
    group: Group,
    score: Score,
    combine: str,
    cache: dict[tuple[str, int], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the combined score of every unit of a group, in the shape of its blocks.

    Where tensors make only a part of the units each, as the branches of a concatenation do, their scores are
    divided by their mean first: else the branch of smaller fan-in would go as a whole.
    """
    units = group.blocks.ravel()
    order = np.argsort(units)
    total, count, most = (np.zeros(len(units)) for _ in range(3))
    most -= np.inf
    parts = []
    for made in group.makes:
        if (made.tensor, made.axis) not in cache:
            tensor = model.get_parameter(made.tensor).detach()
            cache[made.tensor, made.axis] = score(tensor.movedim(made.axis, 0)).double().cpu().numpy()
        parts.append((cache[made.tensor, made.axis], _places(state, made.units, units, order)))
    if any(len(np.unique(np.concatenate([index for _, index in found]))) < len(units) for _, found in parts):
        parts = [(values / max(float(values.mean()), 1e-30), found) for values, found in parts]
    for values, found in parts:
        for hit, index in found:
            value = values[hit]
            if combine == "first":
                new = count[index] == 0
                index, value = index[new], value[new]
            np.add.at(total, index, value)
            np.add.at(count, index, 1)
            np.maximum.at(most, index, value)
    out = {"sum": total, "max": most}.get(combine, total / np.maximum(count, 1))
    return out.reshape(group.blocks.shape)


def _places(
    state: Couplings, made: Axis, units: NDArray[np.int64], order: NDArray[np.intp]
) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Return, for each factor of an axis, which of its slices are units of the group, and where in it they are."""
    found = []
    for column in state.units.factors(made).T:
        place = np.searchsorted(units, column, sorter=order).clip(max=len(units) - 1)
        hit = units[order[place]] == column
        found.append((hit, order[place[hit]]))
    return found


def _order(state: Couplings, groups: Sequence[Group], scores: list[NDArray[np.float64]]) -> list[Ranked]:
    """Rank the bundles of every group: in each part the lowest first, what must stay left out."""
    stay = _anchors(state, groups, scores)
    ranked = []
    for group, values in zip(groups, scores, strict=True):
        anchored = stay[group.blocks]
        order = np.lexsort((values, anchored), axis=1)
        units = np.take_along_axis(group.blocks, order, axis=1)
        ordered = np.take_along_axis(values, order, axis=1)
        last = group.blocks.shape[1] - max(1, int(anchored.sum(axis=1).max()))
        ranked.append(Ranked(group, units.T[:last], ordered.mean(axis=0)[:last]))
    return ranked


def _anchors(state: Couplings, groups: Sequence[Group], scores: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return the units that must stay so that no axis of any tensor is emptied: the best of each such axis."""
    units = state.units
    value = np.full(units.count + 1, -np.inf)
    for group, numbers in zip(groups, scores, strict=True):
        value[group.blocks.ravel()] = numbers.ravel()
    removable = np.isfinite(value)
    stay = np.zeros(units.count + 1, bool)
    for axes in state.tensors.values():
        for axis in axes:
            if (axis < 0).any():
                continue
            for column in units.factors(axis).T:
                real = column[column >= 0]
                if len(real) and removable[real].all():
                    stay[real[np.argmax(value[real])]] = True
    return stay


def removed_units(ranked: list[Ranked], counts: list[int]) -> Axis:
    """Return the units of the first `counts[i]` bundles of each ranked group."""
    gone = [r.bundles[:count].ravel() for r, count in zip(ranked, counts, strict=True)]
    return np.concatenate(gone) if gone else np.empty(0, np.int64)


def smallest(state: Couplings, groups: Sequence[Group]) -> Axis:
    """Return the units that go when every group is reduced as far as it goes."""
    ranked = _order(state, groups, [np.zeros(group.blocks.shape) for group in groups])
    return removed_units(ranked, [len(r.bundles) for r in ranked])
