"""What every sampler is: it suggests configurations, and says on which budgets they run and in what order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from paretune.errors import InputError, check_choice
from paretune.recipe import Range, check_ranges
from paretune.search._results import Results
from paretune.search._schedule.ladder import Budget, ladder
from paretune.search._schedule.schedules import Flat, Halving, Hyperband, Schedule
from paretune.search._space.space import Config, Space
from paretune.search._study.limits import seconds

Array = NDArray[np.float64]


class Exhausted(Exception):
    """A sampler has no configuration left that was not suggested before."""


@final
@dataclass(frozen=True)
class Suggestion:
    """A configuration to try."""

    row: Array
    """(parameters,), as `Space.row` gives it."""
    config: Config
    origin: str
    """Where it came from: `grid`, `random`, `model`."""


class Sampler(ABC):
    """Suggests configurations. Subclasses are frozen dataclasses with a `name` and their settings as fields."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def budgets(self) -> tuple[Budget | None, ...]:
        """The ladder of budgets, the smallest first; one None where the objective has no budget."""

    @abstractmethod
    def schedule(self, workers: int) -> Schedule:
        """Return a fresh schedule over that ladder."""

    def seeded(self, seed: int) -> Sampler:
        """Return the sampler of a study with this seed; the same where all draws come from `generator`."""
        return self

    @abstractmethod
    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return the suggestion of a number, counted from 0; it may depend on what is given here alone.

        Raises `Exhausted` where there is no other configuration.
        """


class OneBudget(Sampler):
    """A sampler whose runs all have the full budget."""

    @property
    def budgets(self) -> tuple[Budget | None, ...]:
        """No budgets: the objective runs to its end."""
        return (None,)

    def schedule(self, workers: int) -> Schedule:
        """Return the schedule of one budget."""
        return Flat()


@dataclass(frozen=True, kw_only=True)
class Halved(Sampler):
    """The settings of samplers whose runs begin on small budgets, of which the best go on to larger ones."""

    min: Budget | str = 1
    """The smallest budget; a time as "5s" makes budgets seconds, which is what the objective gets."""
    max: Budget | str = 81
    """The budget of a full run, as "3min"."""
    eta: Annotated[int, Range(2, 100)] = 3
    """One of eta goes on to the next budget, which is eta times as large."""
    unit: str = ""
    """What a budget counts (epochs, samples), for people."""
    promote: str = "auto"
    """`together`, when a rung is full (Hyperband); `alone`, as soon as it is due (asynchronous); `auto`: alone
    where several workers would wait for each other."""

    def __post_init__(self) -> None:
        check_ranges(self)
        self._in_seconds()
        ladder(*self._ends, self.eta)
        check_choice(f"{self.name}: promote", self.promote, PROMOTE)

    @property
    def budgets(self) -> tuple[Budget | None, ...]:
        """The ladder from `max` downwards."""
        return ladder(*self._ends, self.eta)

    @property
    def _ends(self) -> tuple[Budget, Budget]:
        assert not isinstance(self.min, str) and not isinstance(self.max, str)
        return self.min, self.max

    def _in_seconds(self) -> None:
        """Turn times into seconds; a number beside a time counts seconds, too."""
        if not isinstance(self.min, str) and not isinstance(self.max, str):
            return
        if self.unit not in ("", SECONDS):
            raise InputError(
                f"{self.name}: min={self.min!r} and max={self.max!r} are times, and unit={self.unit!r} is none; "
                "leave unit out, or give numbers"
            )
        for name in ("min", "max"):
            object.__setattr__(self, name, seconds(getattr(self, name), f"{self.name}: {name}"))
        object.__setattr__(self, "unit", SECONDS)

    def schedule(self, workers: int) -> Schedule:
        """Return Hyperband's schedule, or the asynchronous one."""
        return self._schedule(workers)

    def _schedule(self, workers: int, *, trusting: bool = True) -> Schedule:
        alone = workers > 1 if self.promote == "auto" else self.promote == "alone"
        rungs = len(self.budgets)
        kind = Halving if alone else Hyperband
        return kind(rungs, self.eta, trusting=trusting)


SECONDS = "seconds"
"""The unit of budgets that are times."""
PROMOTE = ("auto", "together", "alone")


def from_prior(space: Space, generator: np.random.Generator, *, uniform: bool = False) -> Suggestion:
    """Return a draw from the priors that no rule forbids; uniform: as if there were none."""
    row, config = next(space.draws(lambda n: generator.random((n, len(space))), uniform=uniform))
    return Suggestion(row, config, "prior" if space.informed and not uniform else "random")
