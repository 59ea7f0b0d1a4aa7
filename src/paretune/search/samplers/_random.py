"""Random search: draws from the priors; quasi-random ones where there are none, which cover a space more evenly.

Sources: Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 13, 2012; Owen, "Scrambling
    Sobol' and Niederreiter-Xing points", Journal of Complexity 14, 1998 (scrambled Sobol points); Bousquet et
    al., "Critical hyper-parameters: no random, no cry", 2017, arXiv:1706.03200 (quasi-random search).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, ClassVar, final

import numpy as np
from scipy.stats import qmc

from paretune.recipe import Range
from paretune.search._results import Results
from paretune.search._space.space import Space
from paretune.search.samplers._base import Array, OneBudget, Suggestion, from_prior

MOST = 4096
"""Sobol points that are made at once, and the most that are used: later draws are random."""


@final
@dataclass(frozen=True, kw_only=True)
class Random(OneBudget):
    """Draw configurations from their priors, independently of all results."""

    name: ClassVar[str] = "random"

    quasi: bool | None = None
    """Scrambled Sobol points instead of independent draws; None: where no parameter has a prior."""
    scramble: Annotated[int, Range(0, 2**31)] = 0
    """Another scrambling of the same study's points."""
    _seed: int = field(default=0, init=False, repr=False, compare=False)

    def seeded(self, seed: int) -> Random:
        """Return the same for a study's seed."""
        found = replace(self)
        object.__setattr__(found, "_seed", seed)
        return found

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return the next point, or a draw."""
        quasi = not space.informed if self.quasi is None else self.quasi
        if quasi and number < MOST:
            (row,) = space.rows(_points(len(space), self._seed, self.scramble)[number : number + 1].copy())
            config = space.config(row)
            if space.allowed(config):
                return Suggestion(row, config, "random")
        return from_prior(space, generator)


@lru_cache(maxsize=4)
def _points(dimensions: int, seed: int, scramble: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the balance of points needs a power of two, which it is
        return np.asarray(
            qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng([seed, scramble])).random(MOST)
        )
