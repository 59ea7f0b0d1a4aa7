"""What runs were expected to take: the cost model against the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.search._cost import ENOUGH, fit
from paretune.search._density import columns
from paretune.search._schedule.ladder import Budget, amount
from paretune.search._space.space import Space
from paretune.search._study.trial import Trial

FITS = 40
"""Models that are fitted at most."""


def expected_seconds(space: Space, ended: Sequence[Trial], budgets: Sequence[Budget | None]) -> dict[int, float]:
    """Return the seconds that the model of the runs before expected of each, by its number.

    ended: runs in the order in which they ended. Each is asked of a model that was fitted to runs that ended
    before it, as many as there were at the last of 40 even steps; the first few have none.
    """
    if not ended:
        return {}
    rows: NDArray[np.float64] = np.array([space.row(trial.config) for trial in ended]).reshape(-1, len(space))
    sizes = np.array([amount(budgets[trial.rung]) for trial in ended])
    seconds = np.array([np.nan if trial.error else trial.seconds for trial in ended])
    workers = np.array([trial.worker for trial in ended])
    step, found = max(1, -(-len(ended) // FITS)), {}
    for begin in range(max(step, ENOUGH), len(ended), step):
        cost = fit(rows[:begin], sizes[:begin], seconds[:begin], workers[:begin], columns(space).categories)
        if cost is None:
            continue
        for index in range(begin, min(begin + step, len(ended))):
            known = int(workers[index]) if workers[index] in cost.workers else None
            mean, _ = cost.predict(rows[index : index + 1], float(sizes[index]), known)
            found[ended[index].number] = float(np.exp(mean[0]))
    return found
