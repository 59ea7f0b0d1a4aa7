"""Hyperband: draws from the prior on small budgets, of which the best go on to larger ones.

It bets on nothing but that ranks on small budgets tell something of those on large ones. With `promote: alone` and
without its wider brackets it is ASHA.

Sources: Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization", JMLR 2018,
arXiv:1603.06560; Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020, arXiv:1810.05934.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from paretune.errors import InputError
from paretune.search._results import Results
from paretune.search._schedule.schedules import Halving, Schedule
from paretune.search._space.space import Space
from paretune.search.samplers._base import Halved, Suggestion, from_prior


@final
@dataclass(frozen=True, kw_only=True)
class Hyperband(Halved):
    """Draw from the priors; the best of small budgets get larger ones."""

    name: ClassVar[str] = "hyperband"

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return a draw."""
        return from_prior(space, generator)


@final
@dataclass(frozen=True, kw_only=True)
class Asha(Halved):
    """Draw from the priors, all on the smallest budget; the best of each rung go on as soon as they are."""

    name: ClassVar[str] = "asha"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.promote == "together":
            raise InputError("asha: promote='together' is what `hyperband` does; asha goes on alone")

    def schedule(self, workers: int) -> Schedule:
        """Return the asynchronous schedule of one bracket."""
        return Halving(len(self.budgets), self.eta, most=1)

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return a draw."""
        return from_prior(space, generator)
