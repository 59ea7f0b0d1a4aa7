"""Units: what can be removed on its own, and the arithmetic of "these must go together".

A unit is one position of one tensor axis, or what several positions share. Axes of tensors are integer arrays
of unit ids; a negative entry is a position that nothing may remove, and its value says why (see `Reason`).
Three facts can be stated about units, each on whole arrays at once, so that the cost stays near linear:

- `union(a, b)`: a[i] and b[i] are kept or removed together (union-find with vectorised pointer jumping);
- `pin(a, reason)`: none of a may be removed;
- `split` and `merge`: a position (i, j) of a reshaped axis is kept while both its block i and its place j are,
  so its unit becomes the *product* of two others. This is how a flattened (channel x pixel) axis follows the
  channel, and how an axis of (head x width) can lose whole heads or the same widths of every head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Axis = NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """Why a position may not be removed, in words for the user."""

    text: str
    """The fact, with the operator, its node and the user's line where there is one."""
    remedy: str
    """What would make it prunable."""


_CYCLE = (
    "is interleaved with itself: its positions are told apart by a second axis",
    "nothing: the layout is fixed",
)


class Units:
    """A growing set of units with unions, pins and products."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[Reason] = []
        self._parent = np.empty(0, np.int64)
        self._left = np.empty(0, np.int64)  # -1: no product
        self._right = np.empty(0, np.int64)
        self._pin = np.empty(0, np.int64)  # index into reasons, -1: free

    def new(self, size: int) -> Axis:
        """Return `size` fresh units."""
        start, self.count = self.count, self.count + size
        if self.count > len(self._parent):
            spare = max(self.count, 2 * len(self._parent)) - len(self._parent)
            grown = np.arange(len(self._parent), len(self._parent) + spare)
            self._parent = np.concatenate([self._parent, grown])
            empty = np.full(spare, -1, np.int64)
            self._left, self._right, self._pin = (
                np.concatenate([array, empty]) for array in (self._left, self._right, self._pin)
            )
        return np.arange(start, self.count)

    def reason(self, text: str, remedy: str) -> int:
        """Register a reason and return its index."""
        self.reasons.append(Reason(text, remedy))
        return len(self.reasons) - 1

    def find(self, ids: Axis) -> Axis:
        """Return the representative of every unit; negative entries stay."""
        out = np.array(ids, dtype=np.int64)
        real = out >= 0
        start = out[real]
        root = self._parent[start]
        while True:
            self._parent[start] = root  # at once: what comes next on the way jumps as far
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        out[real] = root
        return out

    def union(self, a: Axis, b: Axis) -> None:
        """State that a[i] and b[i] are kept or removed together; a fixed one pins its partner."""
        a, b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
        a, b = a.ravel(), b.ravel()
        for fixed, free in ((a, b), (b, a)):
            mask = (fixed < 0) & (free >= 0)
            if mask.any():
                self._pin_to(free[mask], -fixed[mask] - 1)
        both = (a >= 0) & (b >= 0)
        pending = [(a[both], b[both])]
        while pending:
            pending += self._link(*pending.pop())

    def _link(self, a: Axis, b: Axis) -> list[tuple[Axis, Axis]]:
        """Link two arrays of units; return the unions that follow for the factors of products."""
        follow: list[tuple[Axis, Axis]] = []
        while True:
            ra, rb = self.find(a), self.find(b)
            unlike = ra != rb
            if not unlike.any():
                return follow
            high, low = np.maximum(ra, rb)[unlike], np.minimum(ra, rb)[unlike]
            np.minimum.at(self._parent, high, low)  # a parent is always smaller: no cycles
            root = self.find(high)
            pinned = (self._pin[high] >= 0) & (self._pin[root] < 0)
            self._pin[root[pinned]] = self._pin[high[pinned]]
            product = self._left[high] >= 0
            bare = product & (self._left[root] < 0)
            self._left[root[bare]], self._right[root[bare]] = self._left[high[bare]], self._right[high[bare]]
            if product.any():
                high, root = high[product], root[product]
                follow += [(self._left[high], self._left[root]), (self._right[high], self._right[root])]

    def pin(self, ids: Axis, reason: int) -> None:
        """State that none of these units may be removed; the first reason given is the one that is told."""
        real = np.asarray(ids).ravel()
        self._pin_to(real[real >= 0], reason)

    def _pin_to(self, ids: Axis, reason: int | Axis) -> None:
        root = self.find(ids)
        free = self._pin[root] < 0
        self._pin[root[free]] = reason if isinstance(reason, int) else reason[free]

    def _fixed(self, axis: Axis) -> Axis:
        """Return the representatives of an axis, with those that are pinned by now as fixed positions."""
        units = self.find(axis)
        return np.where(units >= 0, np.where(self._pin[units] >= 0, -1 - self._pin[units], units), units)

    def merge(self, outer: Axis, inner: Axis) -> Axis:
        """Return the axis of length len(outer) * len(inner) that reshaping (outer, inner) into one axis gives."""
        a, b = (x.ravel() for x in np.broadcast_arrays(self._fixed(outer)[:, None], self._fixed(inner)[None, :]))
        out = np.where(a >= 0, a, b).astype(np.int64)
        both = (a >= 0) & (b >= 0) & (a != b)
        if both.any():
            products = self.new(int(both.sum()))
            self._left[products], self._right[products] = a[both], b[both]
            out[both] = products
        return out

    def split(self, axis: Axis, outer: int, inner: int, mixed: int) -> tuple[Axis, Axis, bool]:
        """Return the two axes that reshaping one axis into (outer, inner) gives, and whether units were split.

        Where the axis has no structure yet, every position becomes the product of its block and its place in
        the block. `mixed` is the reason for an axis that is part fixed, part free without structure.
        """
        units = self._fixed(axis).reshape(outer, inner)
        fixed = -1 - mixed
        if (units < 0).all():
            return np.full(outer, units[0, 0]), np.full(inner, units[0, 0]), False
        if outer == 1 or (units == units[:1]).all():
            return np.full(outer, fixed), units[0], False
        if inner == 1 or (units == units[:, :1]).all():
            return units[:, 0], np.full(inner, fixed), False
        if (units < 0).any():
            self.pin(units, mixed)
            return np.full(outer, fixed), np.full(inner, fixed), False
        left, right = self._left[units], self._right[units]
        if (left >= 0).all():
            left, right = self.find(left), self.find(right)
            if (left == left[:, :1]).all() and (right == right[:1]).all():
                return left[:, 0], right[0], False
        blocks, places = self.new(outer), self.new(inner)
        products = self.new(outer * inner)
        self._left[products], self._right[products] = np.repeat(blocks, inner), np.tile(places, outer)
        self.union(units.ravel(), products)
        return blocks, places, True

    def resolve(self) -> None:
        """Carry pins from products to their factors; call once after the last fact was stated."""
        while True:
            self._break_cycles()
            roots = self._roots()
            pinned = roots[(self._left[roots] >= 0) & (self._pin[roots] >= 0)]
            factors = np.concatenate([self._left[pinned], self._right[pinned]])
            reasons = np.tile(self._pin[pinned], 2)
            free = self._pin[self.find(factors)] < 0
            if not free.any():
                return
            self._pin_to(factors[free], reasons[free])

    def _roots(self) -> Axis:
        """Return the units that are their own representative, in order."""
        return np.flatnonzero(self._parent[: self.count] == np.arange(self.count))

    def _break_cycles(self) -> None:
        """Where a unit is a product of itself and another, the other can never go without it: pin that one."""
        roots = self._roots()
        roots = roots[self._left[roots] >= 0]
        left, right = self.find(self._left[roots]), self.find(self._right[roots])
        own = (left == roots) | (right == roots)
        if own.any():
            other = np.where(left == roots, right, left)[own]
            self._left[roots[own]] = self._right[roots[own]] = -1
            self._pin_to(other[other != roots[own]], self.reason(*_CYCLE))

    def factors(self, axis: Axis) -> NDArray[np.int64]:
        """Return, for each position, the units that each can remove it: (len(axis), k), padded with negatives."""
        columns, done = [self.find(axis)], []
        for _ in range(64):  # a depth that no reshaping reaches; a cycle ends here
            if not columns:
                break
            column = columns.pop()
            product = (column >= 0) & (self._left[column] >= 0)
            if not product.any():
                done.append(column)
                continue
            left, right = column.copy(), np.full_like(column, -1)
            left[product] = self.find(self._left[column[product]])
            right[product] = self.find(self._right[column[product]])
            columns += [right, left]
        return np.stack([*done, *columns], axis=1)

    def pinned(self, ids: Axis) -> NDArray[np.int64]:
        """Return the index of the reason that pins each unit, -1 where it is free."""
        root = self.find(ids)
        return np.where(root >= 0, self._pin[root], -root - 1)

    def keep(self, removed: Axis) -> NDArray[np.bool_]:
        """Return for every unit id whether it stays once `removed` (representatives) are gone."""
        root = self.find(np.arange(self.count))
        kept = np.ones(self.count, bool)
        kept[self.find(removed)] = False
        products = np.flatnonzero((self._left[: self.count] >= 0) & (root == np.arange(self.count)))
        left, right = self.find(self._left[products]), self.find(self._right[products])
        while True:
            after = kept[products] & kept[left] & kept[right]
            if np.array_equal(after, kept[products]):
                return kept[root]
            kept[products] = after
