"""Ranking: in each group, the order in which bundles go, and which must stay.

Scores of coupled slices are combined by a stated rule (mean by default). Layers of different fan-in do not compare
raw, so for a ranking over groups every group's scores are divided by their mean, and multiplied by what a bundle
is to the layers that make or read it (`presence`): a channel of a residual sum is one of many layers, an attention
head is a large part of its own. (Towards a budget, scores count for what is saved: `_selection/knapsack.py`.)

Unlike structures do not compare even so: the scores of attention heads spread otherwise than those of a residual
width. Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024, arXiv:2407.04616, therefore ranks only
isomorphic structures against each other; `kinds` says which are. Here two groups are of one kind if the same
operators make and read their channels, along the same axes, in the same place of a product (heads, the width of a
head), and both are or are not shared by several layers that make them (a residual width). The paper asks for equal
graphs, so that stages of three and of four blocks would be two kinds.

Of every axis of a tensor or value that could be emptied, the best unit stays.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paretune.prune._couplings.couplings import Couplings
from paretune.prune._couplings.groups import Group, layer_name
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.parts import Part
from paretune.prune._couplings.units import Axis

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """A group, or a part of one, with its bundles in the order in which they go."""

    group: Group
    bundles: NDArray[np.int64]
    """(n, parts) units, the first to go first; those that must stay are left out."""
    scores: Values
    """(n,), comparable across groups where they were normalised."""
    title: str
    width: int
    """Channels of the first layer that makes them."""
    step: int
    """Channels of that layer that go with one bundle."""
    size: int
    """Bundles with those that must stay."""
    went: int = 0
    """Bundles that went in earlier rounds."""


def rank(
    state: Couplings,
    groups: Sequence[Group],
    parts: Sequence[Part],
    values: Sequence[Values | None],
    combine: str,
    presence: Sequence[Values] | None,
    in_turn: bool = False,
) -> tuple[list[Ranked], list[Group]]:
    """Put the bundles of every group in the order in which they go; return also the groups that have no score.

    parts: where the groups' units lie; values: the score of every part, None where it has none.
    presence: of the units of every group, so that groups compare: the scores of each are divided by the mean of
        their absolute values and multiplied by this. None leaves scores as they are.
    in_turn: whether the scores tell what a channel is worth when its turn has come. Where they take each channel
        as the only one that goes, the scores of n channels of which k went before are multiplied by
        sqrt(n / (n - k)): else a group whose scores are alike would be emptied at once.
    """
    by_group: dict[int, list[tuple[Part, Values]]] = defaultdict(list)
    for part, value in zip(parts, values, strict=True):
        if value is not None:
            by_group[part.group].append((part, value))
    known, scores, unknown = [], [], []
    for index, group in enumerate(groups):
        combined = combine_scores(by_group[index], group.blocks.size, combine)
        if combined is None:
            unknown.append(group)
            continue
        known.append(group)
        if presence is not None:
            counted = presence[index].mean() if combine == "sum" else presence[index]  # a sum has counted layers
            combined = scaled(combined) * counted
        scores.append(combined.reshape(group.blocks.shape))
    ranked = ordered(state, known, scores)
    alone = presence is not None and not in_turn
    return [_rising(r) if alone else r for r in ranked], unknown


def _rising(ranked: Ranked) -> Ranked:
    """Raise the scores of a group as its channels go; those that are below zero stay so, and in their order."""
    gone = np.arange(len(ranked.scores))
    factor = np.sqrt(ranked.size / (ranked.size - gone))
    return replace(ranked, scores=np.where(ranked.scores > 0, ranked.scores * factor, ranked.scores))


def combine_scores(found: Sequence[tuple[Part, Values]], size: int, combine: str) -> Values | None:
    """Return one score for each of `size` units by the rule: mean, sum, max, or the first layer's.

    Where slices know only a part of the units each, as the branches of a concatenation do, their scores are
    divided by their mean first: else the branch of smaller fan-in would go as a whole. None where a unit has no
    score.
    """
    by_slice: dict[int, list[tuple[Part, Values]]] = defaultdict(list)
    for part, value in found:
        by_slice[id(part.slice)].append((part, value))
    partial = any(len(np.unique(np.concatenate([p.units for p, _ in some]))) < size for some in by_slice.values())
    total, count, most = np.zeros(size), np.zeros(size), np.full(size, -np.inf)
    for some in by_slice.values():
        scale = _mean([value for _, value in some]) if partial else 1.0
        for part, value in some:
            index, value = part.units, value / scale
            if combine == "first":
                new = count[index] == 0
                index, value = index[new], value[new]
            np.add.at(total, index, value)
            np.add.at(count, index, 1)
            np.maximum.at(most, index, value)
    if (count == 0).any():
        return None
    out: Values = {"sum": total, "max": most}.get(combine, total / np.maximum(count, 1))
    return out


def presence(groups: Sequence[Group], parts: Sequence[Part]) -> list[Values]:
    """Return what each unit of every group is to its layers: the sum over them of channels / sqrt(width).

    parts: where the groups' units lie on the slices that make and that read them.
    Of a layer of 64 channels an attention head of 16 is 2, a single one 1/8, and one of a layer of 256 is 1/16. To
    count channels, whatever the width, takes heads and residual widths too lightly; to count shares of a layer
    takes the wide last stages of convolutional networks too lightly (docs/decisions/0008).
    """
    found = [np.zeros(group.blocks.size) for group in groups]
    seen: set[tuple[int, int]] = set()
    for part in parts:
        value = part.positions.shape[1] / math.sqrt(part.slice.units.shape[-1])
        for unit in part.units.tolist():
            if (id(part.slice), unit) not in seen:  # blocks of a weight may read the same channels
                seen.add((id(part.slice), unit))
                found[part.group][unit] += value
    return found


def scaled(scores: Values) -> Values:
    """Divide scores by the mean of their absolute values."""
    return scores / _mean([scores])


def _mean(values: Sequence[Values]) -> float:
    return max(float(np.abs(np.concatenate(values)).mean()), 1e-30)


def kinds(state: Couplings, groups: Sequence[Group], parts: Sequence[Part]) -> list[int]:
    """Return for every group the number of its kind: equal where structures compare (see the module).

    parts: where the groups' units lie on the slices that make and that read them.
    """
    marks: list[set[tuple[object, ...]]] = [set() for _ in groups]
    makers: list[set[str]] = [set() for _ in groups]
    made = {id(where) for where in state.makes}
    for part in parts:
        makes = id(part.slice) in made
        first = part.positions[0]
        each = "" if len(first) == 1 else "block" if int(first[1] - first[0]) == 1 else "place"
        marks[part.group].add((makes, operator_of(part.slice.node), part.slice.axis, each, part.blocks > 1))
        if makes:
            makers[part.group].add(part.slice.tensor)
    found: dict[object, int] = {}
    return [
        found.setdefault((frozenset(mark), len(makes) > 1), len(found))
        for mark, makes in zip(marks, makers, strict=True)
    ]


def ordered(state: Couplings, groups: Sequence[Group], scores: list[NDArray[np.float64]]) -> list[Ranked]:
    """Rank the bundles of every group: in each part the lowest first, what must stay left out."""
    stay = anchors(state, groups, scores)
    ranked = []
    for group, values in zip(groups, scores, strict=True):
        anchored = stay[group.blocks]
        order = np.lexsort((values, anchored), axis=1)
        units = np.take_along_axis(group.blocks, order, axis=1)
        ordered = np.take_along_axis(values, order, axis=1)
        last = group.blocks.shape[1] - max(1, int(anchored.sum(axis=1).max()))
        size = group.blocks.shape[1]
        scored = ordered.mean(axis=0)[:last]
        ranked.append(Ranked(group, units.T[:last], scored, group.label, group.width, group.step, size))
    return ranked


def by_makers(state: Couplings, ranked: Ranked) -> list[Ranked]:
    """Take a group apart into the units that the same layers make, where its layers make unlike ones.

    A layer's width is the sum over its parts, so it is a multiple of a number where each part is. A shortcut that
    pads with zeros (ResNets on CIFAR) and branches that are concatenated make such groups.
    """
    units = ranked.group.blocks
    if len(units) > 1:
        return [ranked]
    made = [state.units.factors(maker.units) for maker in ranked.group.makes]
    patterns, part = np.unique([np.isin(units[0], each) for each in made], axis=1, return_inverse=True)
    if patterns.shape[1] == 1:
        return [ranked]
    found = []
    for index, pattern in enumerate(patterns.T):
        mine = units[0][part.ravel() == index]
        first = int(pattern.argmax())
        width = int(np.isin(made[first], mine).any(axis=1).sum())
        stays = np.isin(ranked.bundles[:, 0], mine)
        title = f"{layer_name(ranked.group.makes[first].tensor)}, {width} channels of it"
        found.append(
            Ranked(
                ranked.group,
                ranked.bundles[stays],
                ranked.scores[stays],
                title,
                width,
                width // len(mine),
                len(mine),
            )
        )
    return found


def anchors(state: Couplings, groups: Sequence[Group], scores: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return the units that must stay so that no axis of any tensor is emptied: the best of each such axis."""
    units = state.units
    value = np.full(units.count + 1, -np.inf)
    for group, numbers in zip(groups, scores, strict=True):
        value[group.blocks.ravel()] = numbers.ravel()
    removable = np.isfinite(value)
    stay = np.zeros(units.count + 1, bool)
    for along in state.never_empty():
        if removable[along].all():
            stay[along[np.argmax(value[along])]] = True
    for axis, least in state.minima:
        for column in units.factors(axis).T:
            real = column[column >= 0]
            stay[real[np.argsort(-value[real], kind="stable")[:least]]] = True
    return stay


def removed_units(ranked: list[Ranked], counts: list[int]) -> Axis:
    """Return the units of the first `counts[i]` bundles of each ranked group."""
    gone = [r.bundles[:count].ravel() for r, count in zip(ranked, counts, strict=True)]
    return np.concatenate(gone) if gone else np.empty(0, np.int64)


def smallest(state: Couplings, groups: Sequence[Group]) -> Axis:
    """Return the units that go when every group is reduced as far as it goes."""
    ranked = ordered(state, groups, [np.zeros(group.blocks.shape) for group in groups])
    return removed_units(ranked, [len(r.bundles) for r in ranked])
