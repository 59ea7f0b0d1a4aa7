"""What a study hands over: its front, and where nothing holds the constraints, the run that misses them least."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from paretune.search._ranking import Point, arrays, fronts
from paretune.search._study.goals import Goals
from paretune.search._study.repeats import wholes
from paretune.search._study.trial import Trial, best_of


@final
@dataclass(frozen=True)
class Found:
    """The outcome of a study."""

    goals: Goals
    front: tuple[Trial, ...]
    """Feasible runs on the largest budget that no other one dominates, by the first objective."""
    nearest: Trial | None = None
    """Where none is feasible, the run that misses the constraints least."""
    missed: str = ""
    """By how much it does, in words."""

    @property
    def best(self) -> Trial | None:
        """The run of the front with the least first objective."""
        return self.front[0] if self.front else None

    def to_json(self) -> dict[str, Any] | None:
        """Return the best run as plain JSON, with the front where there are several objectives, and what came
        nearest where none is feasible; None where no run succeeded."""
        if self.nearest is not None:
            return {"state": "infeasible", "missed": self.missed, "nearest": self.nearest.to_json()}
        if self.best is None or not self.goals.several:
            return self.best and self.best.to_json()
        return self.best.to_json() | {"front": [trial.to_json() for trial in self.front]}


def found_by(trials: Iterable[Trial], goals: Goals, repeats: int, top: int) -> Found:
    """Return the outcome of runs. top: the rung of the largest budget, where runs have repeats."""
    whole = wholes(trials, repeats, top)
    if not goals.several and not goals.constraints:
        best = best_of(whole)
        return Found(goals, () if best is None else (best,))
    finished = [trial for trial in whole if not trial.error]
    highest = max((trial.rung for trial in finished), default=0)
    last = sorted((trial for trial in finished if trial.rung == highest), key=lambda trial: trial.number)
    feasible = [trial for trial in last if goals.violation(trial) == 0]
    if not feasible:
        nearest = min(last, key=lambda trial: (goals.violation(trial), trial.number), default=None)
        return Found(goals, (), nearest, "" if nearest is None else goals.missed(nearest))
    points = [score for score in map(goals.score, feasible) if isinstance(score, Point)]
    values, _ = arrays(points)
    first, *_ = fronts(values)
    sequence = first[np.lexsort(values[first].T[::-1])]
    if not goals.several:  # of equal ones the first is enough
        sequence = sequence[:1]
    return Found(goals, tuple(feasible[index] for index in sequence))
