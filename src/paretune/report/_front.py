"""The Pareto front of rows (cost, value): those that no other row beats in both.

A row is beaten by one that costs no more and is worth no less, and is better in one of the two; equal rows do
not beat each other. Sorted once by cost, then one pass: O(n log n), Kung, Luccio and Preparata, "On finding the
maxima of a set of vectors", JACM 22, 1975.
"""

from __future__ import annotations

from collections.abc import Sequence


def front(rows: Sequence[tuple[float, float]], *, greater_is_better: bool = True) -> list[int]:
    """Return the indices of the rows on the front, the cheapest first.

    rows: (cost, value); less cost is better, and more value unless `greater_is_better` is False.

    >>> front([(1.0, 0.98), (0.5, 0.97), (0.6, 0.96)])
    [1, 0]
    """
    sign = 1.0 if greater_is_better else -1.0
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], -sign * rows[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or sign * rows[i][1] > sign * rows[kept[-1]][1] or rows[i] == rows[kept[-1]]:
            kept.append(i)
    return kept
