"""Kernel densities over configurations: products of kernels, or products of marginals.

A configuration is a row of numbers in [0, 1], NaN where a parameter is not active. Each observed row is the
centre of a kernel: for numbers and ordered values a normal one, cut off and normalised on [0, 1], for categories
that of Aitchison and Aitken. All densities are over the unit cube, where 1 is the uniform one.

Nothing is imputed: a row in which a parameter is not active tells nothing of it. Its marginal comes from the rows
where it is active; in a joint density such a row's kernel is uniform along it.

Bandwidths are normal-reference, 1.06 sigma n^(-1 / (4 + d)) (Silverman, "Density estimation for statistics and
data analysis", 1986, section 3.4.2). Source of the kernel for categories: Aitchison and Aitken, Biometrika 63,
1976.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from paretune.search._space.space import Space

Array = NDArray[np.float64]
TINY = 1e-300


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """What densities know of a space, column by column."""

    categories: NDArray[np.int64]
    """(d,): number of categories, 0 where the column is a number or ordered."""
    floors: Array
    """(d,): least bandwidth; half a cell where a number has few values."""

    def __len__(self) -> int:
        return len(self.categories)


def columns(space: Space, floor: float = 1e-3) -> Columns:
    """Return the columns of a space. floor: least bandwidth of a continuous number."""
    parameters = [space[name] for name in space.names]
    return Columns(
        np.array([int(each.count) if each.scale == "category" else 0 for each in parameters]),
        np.array([floor if each.scale == "category" else max(floor, 0.5 / each.count) for each in parameters]),
    )


def codes(units: Array, categories: int) -> NDArray[np.int64]:
    """Return which category each number in [0, 1] stands for; -1 for NaN."""
    filled = np.where(np.isnan(units), -1.0, units)
    return np.where(filled < 0, -1, np.minimum((filled * categories).astype(np.int64), categories - 1))


def bandwidths(rows: Array, about: Columns, *, together: bool) -> Array:
    """Return a bandwidth for each column, (d,).

    together: for a joint density over all columns, which wants wider kernels; else for each column by itself.
    """
    dimensions = rows.shape[1] if together else 1
    found = about.floors.copy()
    for column, categories in enumerate(about.categories):
        values = rows[:, column]
        values = values[~np.isnan(values)]
        if len(values) == 0:
            continue
        if categories:
            values = codes(values, categories).astype(np.float64)
        width = 1.06 * float(values.std()) * len(values) ** (-1 / (4 + dimensions))
        most = (categories - 1) / categories if categories else math.inf
        found[column] = min(max(width, found[column]), most)
    return found


def kernel(points: Array, centres: Array, width: Array | float, categories: int) -> Array:
    """Return the kernels of centres (n,) at points (m,) along one column, (m, n); 1 where either is NaN.

    width: one for all kernels, or (n,).

    >>> kernel(np.array([0.75]), np.array([0.25]), 0.2, 2)  # the other one of two categories: 2 * 0.2 / (2 - 1)
    array([[0.4]])
    """
    inactive = np.isnan(points)[:, None] | np.isnan(centres)[None, :]
    if categories == 1:
        return np.ones(inactive.shape)
    if categories:
        same = codes(points, categories)[:, None] == codes(centres, categories)[None, :]
        found = np.where(same, (1 - width) * categories, width * categories / (categories - 1))
    else:
        mass = special.ndtr((1 - centres) / width) - special.ndtr(-centres / width)
        z = (points[:, None] - centres[None, :]) / width
        found = np.exp(-0.5 * z * z) / (width * math.sqrt(2 * math.pi) * mass)
    return np.asarray(np.where(inactive, 1.0, found) if inactive.any() else found)


def joint(points: Array, rows: Array, widths: Array, about: Columns, weights: Array | None = None) -> Array:
    """Return the logarithm of the density at points (m, d) of product kernels at rows (n, d), (m,).

    weights: (n,), what each row counts for; all the same where None.
    """
    logs = np.zeros((len(points), len(rows)))
    for column, (width, categories) in enumerate(zip(widths, about.categories, strict=True)):
        logs += np.log(np.maximum(kernel(points[:, column], rows[:, column], width, categories), TINY))
    shares = np.full(len(rows), 1 / len(rows)) if weights is None else weights / weights.sum()
    return np.asarray(special.logsumexp(logs, axis=1, b=shares))


def marginals(points: Array, rows: Array, widths: Array, about: Columns, weights: Array | None = None) -> Array:
    """Return the sum over columns of the logarithms of their own densities at points (m, d), (m,).

    A column that is active in no row counts as uniform, and where a point has it inactive it counts nothing.
    """
    found = np.zeros(len(points))
    for column, (width, categories) in enumerate(zip(widths, about.categories, strict=True)):
        known = ~np.isnan(rows[:, column])
        if not known.any():
            continue
        values = kernel(points[:, column], rows[known, column], width, categories)
        shares = None if weights is None else weights[known]
        found += np.log(np.maximum(np.average(values, axis=1, weights=shares), TINY))
    return found


def draw(
    rows: Array, widths: Array, about: Columns, count: int, generator: np.random.Generator, *, together: bool
) -> Array:
    """Return draws from the density of rows, (count, d); NaN along a column that is active in none of them.

    together: each draw is near one row; else each of its columns is near a row of its own.
    """
    found = np.full((count, rows.shape[1]), np.nan)
    chosen = generator.integers(len(rows), size=count)
    for column, (width, categories) in enumerate(zip(widths, about.categories, strict=True)):
        known = np.flatnonzero(~np.isnan(rows[:, column]))
        if len(known) == 0:
            continue
        if together:
            centres = rows[chosen, column]
            missing = np.isnan(centres)
            centres[missing] = rows[generator.choice(known, missing.sum()), column]
        else:
            centres = rows[generator.choice(known, count), column]
        found[:, column] = near(centres, width, categories, generator)
    return found


def near(centres: Array, width: Array | float, categories: int, generator: np.random.Generator) -> Array:
    """Return a draw from each of the kernels at centres (m,) along one column, (m,). width: one, or (m,)."""
    if categories:
        other = generator.integers(categories, size=len(centres))
        kept = generator.random(len(centres)) < 1 - width
        return np.asarray((np.where(kept, codes(centres, categories), other) + 0.5) / categories)
    low, high = special.ndtr(-centres / width), special.ndtr((1 - centres) / width)
    shares = low + generator.random(len(centres)) * (high - low)
    return np.asarray(np.clip(centres + width * special.ndtri(shares), 0.0, 1.0))
