"""The deadline: nothing is begun that will probably end too late, and the best configuration gets its full run.

Probably is with 90 %, by the model of a run's seconds (`_cost.py`); without a model everything fits. Limits of
wall time and of work alike. Time is kept back for one full run: of the best configuration of the highest rung
below the top whose best one did not go on. Where that run does not fit either, nothing is kept back. Once there is
a full run, shorter ones are begun only where a full run of the same configuration fits behind them: else nothing
could come of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from paretune.search._cost import Array, Cost
from paretune.search._ranking import Point, Score, succeeded
from paretune.search._schedule.ladder import Budget, amount
from paretune.search._schedule.schedules import Job, Schedule
from paretune.search._study.limits import Limits
from paretune.search.samplers._base import Suggestion

SHARE = 0.9
OFFERS = 5
"""So many suggestions are looked at to find one that there is time for."""
OUTSIDE = -1
"""The bracket of full runs that no bracket asked for."""


@final
@dataclass(frozen=True)
class Left:
    """The time that is left for a worker that is free."""

    wall: float
    """Seconds, infinity where there is no limit."""
    work: float
    """Seconds of work, less what runs that are under way will probably take."""
    others: tuple[float, ...] = ()
    """In how many seconds each other worker will probably be free."""

    def fits(self, seconds: float, final: float = 0.0, own: float = 0.0) -> bool:
        """Tell whether a run fits, then its own full run, and on whatever worker another one of `final` seconds.

        >>> Left(10.0, math.inf).fits(4.0, 6.0), Left(10.0, math.inf).fits(5.0, 6.0)
        (True, False)
        >>> Left(10.0, math.inf, others=(3.0,)).fits(5.0, 6.0)
        True
        """
        free = min((seconds, *self.others))
        in_time = seconds + own <= self.wall and free + final <= self.wall
        return in_time and seconds + max(own, final) <= self.work


@final
@dataclass
class Finals:
    """Which configuration is to have a full run before the end, and those that had one outside of all brackets."""

    top: int
    """The highest rung."""
    best: dict[int, tuple[float, float, int]] = field(default_factory=dict)
    """Violation and loss of the best run of each rung, and whose it is."""
    highest: dict[int, int] = field(default_factory=dict)
    """The highest rung that each configuration was begun at."""
    scores: dict[int, Score | None] = field(default_factory=dict)
    """Of full runs outside of brackets, None while they run."""
    twins: dict[int, Job] = field(default_factory=dict)
    """Jobs that brackets came to ask for while such a run was under way, by configuration."""

    def begin(self, config: int, rung: int, bracket: int) -> None:
        """Note that a run begins."""
        self.highest[config] = max(rung, self.highest.get(config, rung))
        if bracket == OUTSIDE:
            self.scores.setdefault(config, None)

    def end(self, config: int, rung: int, bracket: int, score: Score) -> None:
        """Note how it ended. The best run holds the constraints; of several objectives the first counts."""
        violation, loss = (score.violation, score.values[0]) if isinstance(score, Point) else (0.0, score)
        if succeeded(score):
            self.best[rung] = min(self.best.get(rung, (math.inf, math.inf, -1)), (violation, loss, config))
        if bracket == OUTSIDE:
            self.scores[config] = score

    def due(self) -> int | None:
        """Return the best configuration of the highest rung below the top whose best one did not go on."""
        for rung in sorted(self.best, reverse=True):
            *_, config = self.best[rung]
            if rung < self.top and self.highest[config] == rung:
                return config
        return None

    @property
    def whole(self) -> bool:
        """Whether a full run was finished."""
        return self.top in self.best

    def stand_for(self, job: Job, schedule: Schedule) -> bool:
        """Tell whether a full run outside of brackets is what a job asks for; the schedule is told its score."""
        if job.config is None or job.rung != self.top or job.config not in self.scores:
            return False
        score = self.scores[job.config]
        if score is None:
            self.twins[job.config] = job
        else:
            schedule.tell(job, job.config, score)
        return True


@final
@dataclass(frozen=True)
class Deadline:
    """What fits, as it is now."""

    cost: Cost
    budgets: Sequence[Budget | None]
    left: Left
    final: float = 0.0
    """Seconds kept back for a full run."""
    whole: bool = False
    """Whether there is a full run already."""

    def fits(self, row: Array, rung: int) -> bool:
        """Tell whether a run of a configuration fits, and the full runs that have to follow."""
        short = self.whole and rung < len(self.budgets) - 1
        own = probable(self.cost, row, self.budgets[-1]) if short else 0.0
        return self.left.fits(probable(self.cost, row, self.budgets[rung]), self.final, own)


@final
class Choice:
    """Tells a schedule what fits; of new configurations it looks at some suggestions, and keeps what it chose."""

    def __init__(
        self, deadline: Deadline | None, row: Callable[[int], Array], suggest: Callable[[int], Suggestion]
    ) -> None:
        self._deadline, self._row, self._suggest = deadline, row, suggest
        self._offers: list[Suggestion] = []
        self.chosen: Suggestion | None = None
        self.turn = 0
        """Which of the suggestions it is."""

    def __call__(self, rung: int, config: int | None) -> bool:
        """Tell whether a configuration, or a new one, fits at a rung."""
        if self._deadline is None:
            return True
        if config is not None:
            return self._deadline.fits(self._row(config), rung)
        for turn in range(OFFERS):
            if turn == len(self._offers):
                self._offers.append(self._suggest(turn))
            if self._deadline.fits(self._offers[turn].row, rung):
                self.chosen, self.turn = self._offers[turn], turn
                return True
        return False


def probable(cost: Cost, row: Array, budget: Budget | None) -> float:
    """Return the seconds that a run will stay below with 90 %."""
    return float(cost.quantile(np.asarray(row)[None, :], amount(budget), SHARE)[0])


def left_of(
    limits: Limits, *, wall: float, work: float, running: Sequence[tuple[float, float]], idle: int
) -> Left | None:
    """Return the time that is left for a free worker; None where no limit is in seconds.

    wall, work: seconds so far. running: of each run under way, the seconds that it will probably take and has
    taken. idle: other workers that are free.
    """
    if limits.wall is None and limits.work is None:
        return None
    rest = [max(0.0, probable - taken) for probable, taken in running]
    return Left(
        wall=math.inf if limits.wall is None else limits.wall - wall,
        work=math.inf if limits.work is None else limits.work - work - sum(max(pair) for pair in running),
        others=(*rest, *(0.0 for _ in range(idle))),
    )


def deadline_of(
    cost: Cost | None, budgets: Sequence[Budget | None], left: Left | None, row: Array | None, *, whole: bool
) -> Deadline | None:
    """Return the deadline; None where everything fits.

    row: of the configuration that a full run is due for. whole: whether there is a full run already.
    """
    if cost is None or left is None:
        return None
    final = 0.0 if row is None else probable(cost, row, budgets[-1])
    return Deadline(cost, budgets, left, final if left.fits(final) else 0.0, whole)


def nothing_fits(left: Left) -> str:
    """Return in words that a study ends for its deadline.

    >>> nothing_fits(Left(wall=12.0, work=math.inf))
    'nothing more fits into the 12 s that are left'
    """
    kind = " of work" if left.work < left.wall else ""
    return f"nothing more fits into the {max(0.0, min(left.wall, left.work)):.3g} s{kind} that are left"
