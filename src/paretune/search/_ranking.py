"""The order of runs with several objectives and constraints, of those that one rung holds: the best first.

Feasible runs come before others, and those by how much they miss in all. Feasible ones are sorted into fronts: the
first is what no other run dominates, the next what is left without it, and so on. Within a front the run comes
first which alone dominates most: its hypervolume contribution, exact. Where that takes too much (CELLS: beyond
three objectives mostly, or a front of thousands) it is the crowding distance instead.

Volumes and distances are of places: each objective's value counts as its place among the feasible runs, from 0 to
1, so that neither units nor one absurd value weigh. The reference point is the worst place and a tenth more in
every objective, hence the runs at a front's ends count but not without bound. Hypervolume of raw values, as
published, would follow the scale that somebody chose, and diverged runs.

With one objective and no constraint nothing of this is needed: the losses are the order.

Sources: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Trans. Evol. Comp. 6,
2002 (fronts, crowding distance; feasible first, section VI); Zhang et al., "An efficient approach to nondominated
sorting for evolutionary multiobjective optimization", IEEE Trans. Evol. Comp. 19, 2015 (how they are found);
Beume et al., "SMS-EMOA", EJOR 181, 2007 (contributions); Schmucker et al., "Multi-objective asynchronous
successive halving", 2021, arXiv:2106.12639 (fronts in rungs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MARGIN = 0.1
"""How far beyond the worst place the reference point is."""
CELLS = 2_000_000
"""Most cells, points of a front to the power of objectives, that contributions are counted over."""


@final
@dataclass(frozen=True)
class Point:
    """What a run is ranked by, where its loss alone does not say it."""

    values: tuple[float, ...]
    """Of every objective, the lower the better; infinity where the run failed."""
    violation: float = 0.0
    """How much it misses its constraints, added up over them; 0 where it holds them all."""


Score = float | Point


def succeeded(score: Score) -> bool:
    """Tell whether a score is that of a run that ended well.

    >>> succeeded(0.5), succeeded(Point((1.0, math.inf)))
    (True, False)
    """
    return bool(np.isfinite(score.values).all()) if isinstance(score, Point) else bool(np.isfinite(score))


def ranked(results: Sequence[tuple[Score, int]]) -> list[tuple[Score, int]]:
    """Return scores with the numbers of their configurations, the best first; of equal ones the older.

    >>> ranked([(0.3, 0), (0.1, 1), (0.1, 2)])
    [(0.1, 1), (0.1, 2), (0.3, 0)]
    """
    if not any(isinstance(score, Point) for score, _ in results):
        return sorted(results, key=lambda result: (result[0], result[1]))
    older = sorted(results, key=lambda result: result[1])
    ranks = order(*arrays([score for score, _ in older]))
    return [older[index] for index in np.argsort(ranks, kind="stable")]


def arrays(scores: Sequence[Score]) -> tuple[Array, Array]:
    """Return values (n, objectives) and violations (n,) of scores.

    At least one of them is a point; a number among them is a failure.
    """
    count = next(len(score.values) for score in scores if isinstance(score, Point))
    points = [score if isinstance(score, Point) else Point((math.inf,) * count) for score in scores]
    return np.array([point.values for point in points]), np.array([point.violation for point in points])


def order(values: Array, violations: Array) -> Array:
    """Return the rank of every run, (n,): 0 is the best, of equal ones the first; infinity where a run failed.

    values: (n, objectives), the lower the better; a run with one that is not finite has failed.
    violations: (n,), 0 where all constraints hold.

    >>> order(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [0.0, 0.0]]), np.array([0.0, 0.0, 0.0, 0.5]))
    array([0., 1., 2., 3.])
    """
    ended = np.isfinite(values).all(axis=1)
    feasible = np.flatnonzero(ended & (violations <= 0))
    others = np.flatnonzero(ended & (violations > 0))
    best: list[int] = []
    if len(feasible):
        places = _places(values[feasible])
        for front in fronts(places):
            exact = len(front) ** values.shape[1] <= CELLS
            worth = contributions(places[front]) if exact else crowding(places[front])
            best += feasible[front[np.argsort(-worth, kind="stable")]].tolist()
    best += others[np.argsort(violations[others], kind="stable")].tolist()
    found = np.full(len(values), math.inf)
    found[best] = np.arange(len(best))
    return found


def fronts(values: Array) -> list[NDArray[np.int64]]:
    """Return the rows of every front, (n, objectives) -> the non-dominated ones first; equal rows share a front.

    >>> [front.tolist() for front in fronts(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]]))]
    [[0, 1], [2]]
    """
    unique, inverse = np.unique(values, axis=0, return_inverse=True)  # sorted: none dominates one before it
    kept: list[Array] = []
    counts: list[int] = []
    level = np.empty(len(unique), dtype=np.int64)
    for index, row in enumerate(unique):
        low, high = 0, len(kept)
        while low < high:  # a row that a front dominates is dominated by all fronts before it
            middle = (low + high) // 2
            if (kept[middle][: counts[middle]] <= row).all(axis=1).any():
                low = middle + 1
            else:
                high = middle
        if low == len(kept):
            kept.append(np.empty((len(unique) - index, values.shape[1])))
            counts.append(0)
        kept[low][counts[low]] = row
        counts[low] += 1
        level[index] = low
    return [np.flatnonzero(level[inverse] == each) for each in range(len(kept))]


def contributions(front: Array) -> Array:
    """Return the volume that each point of a front alone dominates, (n, objectives) -> (n,), places in [0, 1].

    Up to the reference point 1 + MARGIN in every objective. A point that is there twice counts once: the second
    contributes nothing, the first what it would without the second.

    The coordinates of all points cut the space into cells; each is counted by how many points dominate it.
    """
    unique, first = np.unique(front, axis=0, return_index=True)
    count, objectives = unique.shape
    edges = [np.append(np.unique(column), 1 + MARGIN) for column in unique.T]
    where = tuple(np.searchsorted(edge, column) for edge, column in zip(edges, unique.T, strict=True))
    shape = tuple(len(edge) - 1 for edge in edges)
    dominating, which = np.zeros(shape), np.zeros(shape)
    dominating[where] = 1
    which[where] = np.arange(count)
    volume = np.ones(shape)
    for axis in range(objectives):
        dominating, which = np.cumsum(dominating, axis), np.cumsum(which, axis)
        widths = np.diff(edges[axis])
        volume = volume * widths.reshape([-1 if each == axis else 1 for each in range(objectives)])
    alone = dominating == 1
    found = np.zeros(len(front))
    found[first] = np.bincount(which[alone].astype(np.int64), volume[alone], minlength=count)
    return found


def crowding(front: Array) -> Array:
    """Return the crowding distance of each point of a front, (n, objectives) -> (n,): infinity at its ends."""
    found = np.zeros(len(front))
    for column in front.T:
        sequence = np.argsort(column, kind="stable")
        span = column[sequence[-1]] - column[sequence[0]]
        found[sequence[[0, -1]]] = math.inf
        if span > 0:
            found[sequence[1:-1]] += (column[sequence[2:]] - column[sequence[:-2]]) / span
    return found


def kendall(a: Array, b: Array) -> float:
    """Return Kendall's tau of two orders of n, (n,) each; 0 of fewer than two.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))  # two pairs of three agree
    0.3333333333333333
    """
    n = len(a)
    if n < 2:
        return 0.0
    signs = np.sign(a[:, None] - a[None, :]) * np.sign(b[:, None] - b[None, :])
    return float(signs.sum() / (n * (n - 1)))


def _places(values: Array) -> Array:
    """Return every value's place among its column's distinct ones, from 0 to 1."""
    found = np.zeros(values.shape)
    for index, column in enumerate(values.T):
        distinct, inverse = np.unique(column, return_inverse=True)
        found[:, index] = inverse / max(1, len(distinct) - 1)
    return found
