"""What a study's drawings show of its runs by budget: the best so far, all values, what went on, the objectives.

A value is the first objective, as the user has it, its mean over repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from paretune.search._schedule.ladder import Budget, share_of
from paretune.search._study.goals import Goals
from paretune.search._study.repeats import Repeats
from paretune.search._study.trial import Trial

Item = TypeVar("Item")
DOTS = 600
"""Most points of one drawing."""
PATHS = 200
"""Most configurations that are drawn across the parameters, or from budget to budget."""
PAUSE = 60.0
"""Seconds between the end of a run and the begin of the next, beyond which the study was not at work."""


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of them at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def value_of(trial: Trial, goals: Goals) -> float:
    """Return the first objective of a run that succeeded, as the user has it."""
    return goals.values(trial)[0]


def curves(
    ended: Sequence[Trial], budgets: Sequence[Budget | None], goals: Goals, repeats: int
) -> list[dict[str, Any]]:
    """Return the best first objective so far on each budget, a point for every improvement and one for the end.

    A point is (ended runs, full-run equivalents, seconds, value). Runs that miss a constraint are none.
    """
    gathered, best = Repeats(repeats, len(budgets) - 1), dict.fromkeys(range(len(budgets)), math.inf)
    found: dict[int, list[tuple[int, float, float, float]]] = {}
    runs, at = 0.0, 0.0
    before = None
    for count, trial in enumerate(ended, 1):
        assert trial.finished is not None
        gap = trial.seconds if before is None else (trial.finished - before).total_seconds()
        at += max(0.0, min(gap, trial.seconds + PAUSE))
        before = trial.finished
        runs += share_of(trial.budget, budgets[-1])
        whole = gathered.take(trial)
        if whole is None or whole.error or goals.violation(whole) > 0:
            continue
        assert whole.loss is not None
        if whole.loss < best[trial.rung]:
            best[trial.rung] = whole.loss
            found.setdefault(trial.rung, []).append((count, runs, at, value_of(whole, goals)))
    for known in found.values():
        known.append((len(ended), runs, at, known[-1][3]))
    return [
        {"budget": budgets[rung], "points": [list(point) for point in known]}
        for rung, known in sorted(found.items(), reverse=True)
    ]


def rungs(whole: Sequence[Trial], budgets: Sequence[Budget | None], goals: Goals) -> list[dict[str, Any]]:
    """Return the first objective on each budget, the best first: all up to a number, then every so many."""
    found = []
    for rung, budget in enumerate(budgets):
        values = [value_of(trial, goals) for trial in whole if trial.rung == rung]
        values.sort(key=goals.signed)
        most = max(2, DOTS // len(budgets))
        found.append({"budget": budget, "runs": len(values), "values": thinned(values, most)})
    return found


def promotions(whole: Sequence[Trial], goals: Goals) -> list[dict[str, Any]]:
    """Return configurations that ran on more than one budget: those that came highest, the best first."""
    by_config: dict[int, dict[int, float]] = {}
    for trial in whole:
        by_config.setdefault(trial.config_number, {})[trial.rung] = value_of(trial, goals)
    several = [(number, known) for number, known in by_config.items() if len(known) > 1]
    several.sort(key=lambda item: (-max(item[1]), goals.signed(item[1][max(item[1])]), item[0]))
    return [
        {"config": number, "points": [[rung, known[rung]] for rung in sorted(known)]}
        for number, known in several[:PATHS]
    ]


def points(whole: Sequence[Trial], front: Sequence[Trial], goals: Goals) -> list[dict[str, Any]]:
    """Return the objectives of the front's runs, and of others on its budget that hold the constraints."""
    if not goals.several or not front:
        return []
    numbers = {trial.number for trial in front}
    beside = [t for t in whole if t.rung == front[0].rung and goals.violation(t) == 0 and t.number not in numbers]
    return [
        {"run": trial.number, "values": list(goals.values(trial))} for trial in (*thinned(beside, DOTS), *front)
    ]
