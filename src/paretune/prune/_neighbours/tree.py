"""The removal tree: which units of a layer go, in which order, from which the recursion reached each, and why.

Both walks start at the least important unit and go from a unit to its neighbours; both are deterministic. `above`
removes what is redundant, `below` what is isolated:

- above: a unit goes if a more important one that is still there is more alike to it than T. Then its neighbours,
  those more alike to it than T, are looked at in the same way, the most alike first. When the walk ends it starts
  again at the least important unit that was not looked at. In the end no two units that stay are more alike than
  T.
- below: the least important unit goes, then those joined to it that are less alike to it than T, the least alike
  first, then what is joined to those in the same way, until all of them are gone.

What a removed unit gave is taken over by its nearest survivor, the one that is most alike in the end.

Source of the merging: Srinivas and Babu, "Data-free Parameter Pruning for Deep Neural Networks", BMVC 2015,
arXiv:1507.06149.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Branch:
    """One removal."""

    unit: int
    parent: int | None
    """The removed unit from which the walk reached it; None where the walk started."""
    into: int | None
    """The unit that takes over what it gave, its nearest survivor; None where none is joined to it."""
    similarity: float
    """Of the unit and its nearest survivor; 0 where there is none."""


def removal_tree(
    importance: Values,
    similarity: Values,
    threshold: float,
    *,
    remove: str = "above",
    joined: Flags | None = None,
    stays: Flags | None = None,
    most: int | None = None,
) -> list[Branch]:
    """Return what goes, in the order in which it goes.

    importance: (n,), the least important unit goes first. similarity: (n, n) in [-1, 1], symmetric.
    remove: "above" for units more alike than the threshold, "below" for those less alike.
    joined: (n, n) bool, which units can be compared and merged at all; None: all.
    stays: (n,) bool, units that may not go. most: at most so many go. One unit always stays, the most important.

    >>> importance = np.array([1.0, 2.0, 3.0])
    >>> similarity = np.array([[1.0, 0.2, 0.9], [0.2, 1.0, 0.1], [0.9, 0.1, 1.0]])
    >>> {branch.unit: branch.into for branch in removal_tree(importance, similarity, 0.5)}
    {0: 2}
    """
    count = len(importance)
    able = np.ones((count, count), bool) if joined is None else joined.copy()
    np.fill_diagonal(able, False)
    order = np.lexsort((np.arange(count), importance))
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    held = np.zeros(count, bool) if stays is None else stays.copy()
    held[order[-1:]] = True
    walk = _above if remove == "above" else _below
    limit = count if most is None else most
    gone: list[tuple[int, int | None]] = []
    alive = np.ones(count, bool)
    for unit, parent in walk(order, rank, similarity, able, threshold, held, alive):
        if len(gone) == limit:
            break
        alive[unit] = False
        gone.append((unit, parent))
    return [_branch(unit, parent, similarity, able & alive, rank) for unit, parent in gone]


def _above(
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    similarity: Values,
    able: Flags,
    threshold: float,
    held: Flags,
    alive: Flags,
) -> Iterator[tuple[int, int | None]]:
    """Yield (unit, parent) of units that are redundant; the caller marks in `alive` what it takes."""
    alike = able & (similarity > threshold)
    seen = np.zeros(len(order), bool)
    for start in order:
        stack: list[tuple[int, int | None]] = [(int(start), None)]
        while stack:
            unit, parent = stack.pop()
            if seen[unit]:
                continue
            seen[unit] = True
            if held[unit] or not (alike[unit] & alive & (rank > rank[unit])).any():
                continue
            yield unit, parent
            near = np.flatnonzero(alike[unit] & alive & ~seen)
            nearest_last = near[np.lexsort((-rank[near], similarity[unit, near]))]
            stack += [(int(other), unit) for other in nearest_last]


def _below(
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    similarity: Values,
    able: Flags,
    threshold: float,
    held: Flags,
    alive: Flags,
) -> Iterator[tuple[int, int | None]]:
    """Yield (unit, parent) of what is joined to the least important unit by likenesses below the threshold."""
    unlike = able & (similarity < threshold)
    seen = held.copy()
    for start in order[~held[order]][:1]:
        seen[start] = True
        queue: deque[tuple[int, int | None]] = deque([(int(start), None)])
        while queue:
            unit, parent = queue.popleft()
            yield unit, parent
            far = np.flatnonzero(unlike[unit] & ~seen)
            seen[far] = True
            queue += [(int(other), unit) for other in far[np.lexsort((rank[far], similarity[unit, far]))]]


def _branch(
    unit: int, parent: int | None, similarity: Values, survivors: Flags, rank: NDArray[np.int64]
) -> Branch:
    near = np.flatnonzero(survivors[unit])
    if not len(near):
        return Branch(unit, parent, None, 0.0)
    best = near[np.lexsort((-rank[near], -similarity[unit, near]))[0]]
    return Branch(unit, parent, int(best), float(similarity[unit, best]))
