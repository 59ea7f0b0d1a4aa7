"""A joint density over configurations whose kernels are as wide as they stand apart: that of TPE.

Each observed row is a product kernel. Along a number its width is the larger distance to the neighbours on both
sides, 1 / (n + 2) of the range at least; of a category it keeps all but a share of 1 / (n + 1). One kernel more,
in the middle and as wide as the range, stands for all that was not tried. So few good rows make a wide density,
and many bad ones a detailed one; widths that shrink with the spread of good rows stay where those are.

All densities are over the unit cube, where 1 is the uniform one. A row in which a parameter is not active is
uniform along it.

Source: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011; the least widths and the
multivariate kernels are those of Optuna's TPESampler (Akiba et al., KDD 2019, arXiv:1907.10902).
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from scipy import special

from paretune.search._density import TINY, Array, Columns, kernel, near

NARROWEST = 100
"""No width is below this part of the range."""


@final
class Parzen:
    """The density of rows (n, d)."""

    def __init__(self, rows: Array, about: Columns) -> None:
        middle = np.full((1, rows.shape[1]), 0.5)
        self._centres, self._about = np.concatenate([rows, middle]), about
        self._widths = np.stack(
            [
                _smoothing(len(rows), categories) if categories else _distances(rows[:, column], floor)
                for column, (categories, floor) in enumerate(zip(about.categories, about.floors, strict=True))
            ],
            axis=1,
        )
        """(n + 1, d): the last is the kernel that stands for all that was not tried."""

    def log(self, points: Array) -> Array:
        """Return the logarithm of the density at points (m, d), (m,)."""
        found = np.zeros((len(points), len(self._centres)))
        for column, categories in enumerate(self._about.categories):
            widths = self._widths[:, column]
            if categories:  # of what lies evenly over all, one part lies on its own
                widths = widths * (categories - 1) / categories
            values = kernel(points[:, column], self._centres[:, column], widths, int(categories))
            found += np.log(np.maximum(values, TINY))
        return np.asarray(special.logsumexp(found, axis=1) - math.log(len(self._centres)))

    def draw(self, count: int, generator: np.random.Generator) -> Array:
        """Return draws, (count, d); NaN along a column that is active in no row."""
        chosen = generator.integers(len(self._centres), size=count)
        found = np.full((count, len(self._about)), np.nan)
        for column, categories in enumerate(self._about.categories):
            known = np.flatnonzero(~np.isnan(self._centres[:-1, column]))
            if len(known) == 0:
                continue
            which = chosen.copy()
            missing = np.isnan(self._centres[which, column])
            which[missing] = generator.choice(known, missing.sum())
            found[:, column] = near(
                self._centres[which, column], self._widths[which, column], categories, generator
            )
        return found


def _smoothing(n: int, categories: int) -> Array:
    """Return which share of each kernel lies evenly over all categories, (n + 1,).

    Optuna adds 1 / (n + 1) to the weight of every category: k / (n + 1 + k) of the whole.
    """
    found = np.full(n + 1, categories / (n + 1 + categories))
    found[-1] = 1.0
    return found


def _distances(values: Array, floor: float) -> Array:
    """Return the width of each kernel along a number, (n + 1,): the larger distance to a neighbour.

    The outermost ones have one neighbour; a single one reaches to the ends of the range.

    >>> _distances(np.array([0.25, 0.75, 0.5, 1.0]), 1e-3)
    array([0.25, 0.25, 0.25, 0.25, 1.  ])
    """
    found = np.ones(len(values) + 1)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        return found
    order = known[np.argsort(values[known], kind="stable")]
    steps = np.diff(np.concatenate([[0.0], values[order], [1.0]]))
    if len(known) > 1:
        steps[0] = steps[-1] = 0.0
    least = max(floor, 1 / min(NARROWEST, len(known) + 2))
    found[order] = np.clip(np.maximum(steps[:-1], steps[1:]), least, 1.0)
    return found
