"""Whether the order of runs on a budget says anything of the order on the next one.

Configurations that ran on both tell by their rank correlation, Kendall's tau. It is that of the best of the
smaller budget alone, which makes it small; where it is significantly below a quarter all the same, by itself or in
the mean of all budgets from there on, the smaller budget misleads: what goes on from there is chance. One above it
may be right again, so that a bracket is better begun there.

Source: Li et al., "Hyper-Tune: towards efficient hyper-parameter tuning at scale", VLDB 2022, arXiv:2201.06834,
section 4.1, which draws brackets by how well each budget orders configurations, as models of it predict them. That
runs themselves are compared, and that a budget has to be found wanting before it is left, is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from paretune.search._ranking import Score, kendall, ranked, succeeded

LEAST = 0.25
"""Kendall's tau of a budget that is worth its runs."""
DEVIATIONS = 1.3
"""So many standard deviations it must be below."""
FEWEST = 5
"""Configurations that have to have run on both of two budgets."""
MOST = 200
"""Configurations that are compared, the last ones."""


@final
class Trust:
    """The scores on each rung of a ladder, and from which one on their order was not found wanting."""

    def __init__(self, rungs: int) -> None:
        self._scores: list[dict[int, Score]] = [{} for _ in range(rungs)]
        self._known: list[tuple[int, float]] = [(0, 0.0)] * (rungs - 1)
        """Of each rung but the last: how many configurations ran on the next one too, and their tau."""

    def tell(self, rung: int, config: int, score: Score) -> None:
        """Note a result; a failure says nothing."""
        if succeeded(score):
            self._scores[rung][config] = score

    @property
    def lowest(self) -> int:
        """The lowest rung from which on no order was found to mislead."""
        taus = [self._tau(rung) for rung in range(len(self._known))]
        wanting = (r + 1 for r in range(len(taus)) if misleads(taus[r : r + 1]) or misleads(taus[r:]))
        return max(wanting, default=0)

    def _tau(self, rung: int) -> tuple[int, float]:
        here, above = self._scores[rung], self._scores[rung + 1]
        both = sorted(config for config in above if config in here)
        if self._known[rung][0] != len(both):
            last = both[-MOST:]
            places = (_places([(scores[config], config) for config in last]) for scores in (here, above))
            self._known[rung] = len(both), kendall(*places)
        return self._known[rung]


def misleads(taus: Sequence[tuple[int, float]]) -> bool:
    """Tell whether a tau, or the mean of several, is significantly below what a budget is worth its runs for.

    taus: (configurations, tau) each, weighted by how many there are.

    >>> misleads([(27, 0.0)]), misleads([(9, 0.0)]), misleads([(9, 0.0), (9, 0.0), (9, 0.0)])
    (True, False, True)
    """
    told = [(n, tau) for n, tau in taus if n > 1]
    whole = sum(n for n, _ in told)
    if whole < FEWEST:
        return False
    mean = sum(n * tau for n, tau in told) / whole
    spread = math.sqrt(sum((n * deviation(n)) ** 2 for n, _ in told)) / whole
    return mean + DEVIATIONS * spread < LEAST


def deviation(n: int) -> float:
    """Return the standard deviation of Kendall's tau of n that are in no relation.

    >>> round(deviation(27), 3)
    0.137
    """
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def _places(results: list[tuple[Score, int]]) -> np.ndarray:
    """Return the place of each result among all, (n,); equal losses share one."""
    if all(isinstance(score, float | int) for score, _ in results):
        return np.array([score for score, _ in results], dtype=np.float64)
    place = {config: index for index, (_, config) in enumerate(ranked(results))}
    return np.array([place[config] for _, config in results], dtype=np.float64)
