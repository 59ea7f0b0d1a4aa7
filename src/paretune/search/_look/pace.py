"""How long a study still takes, from what is stored: for whoever looks at it from outside."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.search._schedule.ladder import Budget, share_of
from paretune.search._study.limits import Limits
from paretune.search._study.trial import TAKEN, Trial

LAST = 30
"""Runs that the pace is taken from, the last ones that ended."""


def seconds_left(trials: Sequence[Trial], limits: Limits, budgets: Sequence[Budget | None]) -> float | None:
    """Return the seconds until a limit in runs or work at the pace of the last runs; None where nothing tells.

    Of a limit in wall time nothing is said: it counts from when a process began, which no run tells.
    """
    ended = sorted(
        ((trial.finished, trial) for trial in trials if trial.finished is not None), key=lambda pair: pair[0]
    )[-LAST:]
    if len(ended) < 2:
        return None
    elapsed = (ended[-1][0] - ended[0][0]).total_seconds()
    recent, own = [trial for _, trial in ended[1:]], [trial for trial in trials if trial.origin != TAKEN]
    found = []
    for limit, amount in (
        (limits.trials, lambda trial: float(trial.attempt == 1)),  # what is begun again counts once
        (limits.runs, lambda trial: share_of(trial.budget, budgets[-1]) if trial.attempt == 1 else 0.0),
        (limits.work, lambda trial: trial.seconds),
    ):
        pace = sum(map(amount, recent)) / elapsed if elapsed > 0 else 0.0
        if limit is not None and pace > 0:
            found.append(max(0.0, limit - sum(map(amount, own))) / pace)
    return min(found, default=None)
