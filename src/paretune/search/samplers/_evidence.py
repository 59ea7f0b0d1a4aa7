"""What smaller budgets say of the largest: a weight for the model of each, by how well its order predicts.

Configurations that ran on both a smaller budget and the one whose model is asked tell by their rank correlation
(Kendall's tau) whether the smaller one's order is worth anything; with few of them, tau is drawn towards a half. A
smaller budget's model counts with tau squared, the more the more runs it has, and never more than the asked one's.

Source: Li et al., "MFES-HB: efficient Hyperband with multi-fidelity quality measurements", AAAI 2021,
arXiv:2012.03011, section 4.2, which weights surrogates of all budgets by how many pairs each orders as the largest
does. Theirs ask each model for predictions; that the runs of a smaller budget themselves are compared is ours, and
so are densities in the place of regressions.
"""

from __future__ import annotations

import numpy as np

from paretune.search._ranking import kendall
from paretune.search._results import Array, Results

BELIEF, PAIRS = 0.5, 4
"""What tau is drawn towards, and how many configurations that is worth."""
HALF = 20
"""With so many runs a budget's model has half of its weight."""
MOST = 200
"""Configurations that a tau is taken of, the last ones."""


def weights(results: Results, top: int, least: int) -> dict[int, float]:
    """Return the weight of each rung below `top` that has at least so many runs, as a part of that of `top`.

    A rung whose order says nothing, or the contrary, is not among them.
    """
    counts = np.bincount(results.rungs, minlength=top + 1)
    rows, losses = results.at(top)
    whole = _share(int(counts[top]))
    found = {}
    weakest = 1.0
    for rung in reversed(range(top)):
        weakest = min(weakest, _agreement(*_shared(*results.at(rung), *results.at(rung + 1))))
        if counts[rung] < least:
            continue
        tau = min(weakest, _agreement(*_shared(*results.at(rung), rows, losses)))
        if tau > 0:
            found[rung] = min(1.0, tau**2 * _share(int(counts[rung])) / whole)
    return found


def _agreement(a: Array, b: Array) -> float:
    n = len(a) if len(a) > 1 else 0
    return (n * kendall(a, b) + PAIRS * BELIEF) / (n + PAIRS)


def _shared(rows: Array, losses: Array, others: Array, their: Array) -> tuple[Array, Array]:
    """Return the losses on both budgets of the configurations that ran on both."""
    _, here, there = np.intersect1d(_keys(rows), _keys(others), return_indices=True)
    last = np.sort(np.argsort(here)[-MOST:])
    a, b = losses[here][last], their[there][last]
    ended = np.isfinite(a) & np.isfinite(b)
    return a[ended], b[ended]


def _keys(rows: Array) -> np.ndarray:
    """Return what tells rows apart, one value each."""
    packed = np.ascontiguousarray(rows)
    return packed.view(np.dtype((np.void, packed.dtype.itemsize * packed.shape[1]))).ravel()


def _share(runs: int) -> float:
    return runs / (runs + HALF)
