"""One suggestion: asked for anew where it was made before, and taken from the list of what is left at the end."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from paretune.search._results import Results
from paretune.search._space.space import Space, key
from paretune.search.samplers._base import Exhausted, Sampler, Suggestion, from_prior
from paretune.search.samplers._grid import Grid

TRIES = 5
"""A suggestion that was made before is asked for anew so often."""
LISTED = 10_000
"""A space of at most so many configurations is listed to find one that was not tried."""


def suggest(
    sampler: Sampler, space: Space, results: Results, known: Set[str], seed: int, number: int
) -> Suggestion:
    """Return the suggestion of a number; it follows from what is given here alone, so that it can be replayed.

    known: `key` of all configurations of smaller numbers. Raises `Exhausted` where there is no other one.
    """
    for attempt in range(TRIES):
        generator = np.random.default_rng([seed, number, attempt])
        suggestion = sampler.suggest(space, results, generator, number)
        if key(suggestion.config) not in known:
            return suggestion
    if space.count > LISTED:
        return from_prior(space, generator)
    left = [config for config in Grid(max_points=LISTED).grid(space) if key(config) not in known]
    if not left:
        raise Exhausted(f"all {len(known)} configurations were tried")
    config = left[int(generator.integers(len(left)))]
    return Suggestion(space.row(config), config, "random")
