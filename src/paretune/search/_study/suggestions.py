"""The configurations of a study, by number, and which comes next.

A suggestion depends on the study's seed, its own number and the results it says it has seen, on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from paretune.search._results import Array, Growing, Results
from paretune.search._space.space import Config, Space, key
from paretune.search.samplers._base import Exhausted, Sampler, Suggestion, from_prior
from paretune.search.samplers._grid import Grid, listed

TRIES = 5
"""A suggestion that was made before is asked for anew so often."""
DRAWS = 100
"""Then so many draws are looked at; where all of them were tried, few others can be left."""
LISTED = 10_000
"""A space of at most so many configurations is listed to find them."""


@final
@dataclass(frozen=True, eq=False)
class Suggested:
    """A configuration of the study."""

    row: Array
    """(parameters,), as `Space.row` gives it; NaN where it is none of the space."""
    config: Config
    origin: str
    seen: int
    """Results that were known when it was suggested."""


@final
class Suggestions:
    """What was suggested, and what comes next."""

    def __init__(self, space: Space, sampler: Sampler, seed: int) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        self._made: list[Suggested] = []
        self._tried: set[str] = set()
        self._all: list[Config] | None = None
        """All configurations of a space that has few of them; more than LISTED where it has many."""
        self._place = 0
        """A point of the grid before which all were tried."""

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, number: int) -> Suggested:
        return self._made[number]

    def add(self, made: Suggested) -> None:
        """Take in the configuration of the next number."""
        self._made.append(made)
        if made.config:  # of one that is missing in the storage nothing is known
            self._tried.add(key(made.config))

    def next(self, known: Growing, running: Iterable[int], turn: int = 0) -> Suggestion:
        """Return a configuration that was not tried before; `Exhausted` where all were.

        running: the configurations whose runs are under way. turn: another one.
        """
        # each once: how many of its repeats are still under way, no replay could know
        pending = [self._made[number].row for number in dict.fromkeys(running)]
        results = known.results(np.array(pending).reshape(-1, len(self._space)))
        if isinstance(self._sampler, Grid):
            return self._point(self._sampler, results, turn)
        for attempt in range(turn * TRIES, (turn + 1) * TRIES):
            generator = np.random.default_rng([self._seed, len(self), attempt])
            suggestion = self._sampler.suggest(self._space, results, generator, len(self))
            if key(suggestion.config) not in self._tried:
                return suggestion
        for _ in range(DRAWS):
            drawn = from_prior(self._space, generator)
            if key(drawn.config) not in self._tried:
                return drawn
        if self._all is None:
            self._all = listed(self._space, LISTED)
        if len(self._all) > LISTED:
            return drawn
        left = [config for config in self._all if key(config) not in self._tried]
        if not left:
            raise Exhausted(f"all {len(self._tried)} configurations were tried")
        config = left[int(generator.integers(len(left)))]
        return Suggestion(self._space.row(config), config, "random")

    def _point(self, grid: Grid, results: Results, turn: int) -> Suggestion:
        """Return the next point that was not tried, or one behind it by its turn.

        Some may have been tried by another version of the study, or before others for which time was short.
        """
        ahead, last = self._place, None
        while True:
            try:
                suggestion = grid.suggest(self._space, results, np.random.default_rng(self._seed), ahead)
            except Exhausted:
                if last is None:
                    raise
                return last  # there are fewer than were asked for
            if key(suggestion.config) not in self._tried:
                if turn == 0:
                    return suggestion
                turn, last = turn - 1, suggestion
            elif ahead == self._place:
                self._place += 1
            ahead += 1
