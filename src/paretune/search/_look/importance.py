"""Which parameters matter: how far the good runs' values of each are from those of all runs.

The Pearson divergence between two densities along one parameter, that of the good runs and that of all: 0 where a
parameter's values say nothing of the loss. It needs no model of the loss and no trees, sees each parameter by
itself, and says nothing of what parameters do together. Where few runs stand for it, it is noise.

Source: Watanabe, Bansal and Hutter, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary
subspaces", IJCAI 2023, arXiv:2304.10255; here with this package's kernels in place of theirs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paretune.search._density import Columns, bandwidths, columns, kernel
from paretune.search._space.space import Space

Array = NDArray[np.float64]
GOOD = 0.15
"""Share of the runs that counts as good, as in BOHB."""
FEWEST = 5
"""Runs that count as good at least."""
POINTS = 48
"""Places along a number at which densities are compared."""


def good_of(losses: Array) -> NDArray[np.int64]:
    """Return which runs count as good: the best 15 %, 5 at least, half of them at most."""
    count = min(max(FEWEST, int(GOOD * len(losses))), max(1, len(losses) // 2))
    return np.argsort(losses, kind="stable")[:count]


def places(categories: int) -> Array:
    """Return places along a column: the middle of each category, or even ones along a number."""
    count = categories or POINTS
    return (np.arange(count) + 0.5) / count


def width_of(units: Array, about: Columns, column: int) -> float:
    """Return the bandwidth of values along one column."""
    own = Columns(about.categories[column : column + 1], about.floors[column : column + 1])
    return float(bandwidths(units[:, None], own, together=False)[0])


def density(units: Array, at: Array, width: float, categories: int) -> Array:
    """Return the density of values along one column at places, 1 where it is the uniform one."""
    return np.asarray(kernel(at, units, width, categories).mean(axis=1))


def importances(space: Space, rows: Array, losses: Array) -> dict[str, float]:
    """Return each parameter's share of the importance; they add up to 1, or are all 0 where none matters.

    rows: (n, parameters), as `Space.row` gives them; losses: (n,), finite.
    """
    if len(rows) < 2:
        return dict.fromkeys(space.names, 0.0)
    about, good = columns(space, 1e-2), good_of(losses)
    found = np.array([_divergence(rows[:, column], good, about, column) for column in range(len(space))])
    whole = found.sum()
    return dict(zip(space.names, (found / whole if whole > 0 else found).tolist(), strict=True))


def _divergence(units: Array, good: NDArray[np.int64], about: Columns, column: int) -> float:
    """Return the mean square of the ratio of both densities less 1, over the density of all."""
    categories = int(about.categories[column])
    best = units[good]
    best, every = best[~np.isnan(best)], units[~np.isnan(units)]
    if categories == 1 or len(best) < 2 or len(every) < FEWEST:
        return 0.0
    # one width for both: a wider kernel for fewer runs would be a difference that no value makes
    width, at = width_of(best, about, column), places(categories)
    of_good, of_all = density(best, at, width, categories), density(every, at, width, categories)
    of_all = np.maximum(of_all, 1e-9)
    return float(np.mean((of_good / of_all - 1) ** 2 * of_all))
