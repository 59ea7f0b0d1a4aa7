"""Grid search: every combination of the values of each parameter, in a stated order.

Parameters vary like the digits of a number, the last one fastest; one that is not active does not multiply. It
is complete, and that is all that speaks for it: with more than two or three parameters that matter, random
search finds more in as many runs (Bergstra and Bengio, JMLR 13, 2012, figure 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, final

import numpy as np

from paretune.errors import InputError, RecipeError, nearest
from paretune.recipe import Range
from paretune.search._results import Results
from paretune.search._space.space import Config, Space
from paretune.search.samplers._base import Exhausted, OneBudget, Suggestion

MANY = 20
"""Combinations, per one that is allowed, that are looked at to list a space."""


@final
@dataclass(frozen=True, kw_only=True)
class Grid(OneBudget):
    """Try every combination of values, in order."""

    name: ClassVar[str] = "grid"

    points: int | Mapping[str, int] | None = None
    """Values of each continuous parameter, evenly spaced in its own scale, its ends among them; by name, or one
    number for all."""
    shuffle: bool = False
    """In an order drawn by `seed`."""
    seed: Annotated[int, Range(0, 2**31)] = 0
    max_points: Annotated[int, Range(1, 10_000_000)] = 10_000
    """A larger grid is refused."""

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return the point of that number; the grid does not look at results."""
        points = self.grid(space)
        if number >= len(points):
            raise Exhausted(f"all {len(points)} points of the grid were tried")
        order = np.random.default_rng(self.seed).permutation(len(points)) if self.shuffle else range(len(points))
        config = points[int(order[number])]
        return Suggestion(space.row(config), dict(config), "grid")

    def grid(self, space: Space) -> tuple[Config, ...]:
        """Return all points, in order; a grid that is too large is an InputError with its size and factors."""
        values = {name: self._values(space, name) for name in space.names}
        most = math.prod(len(each) for each in values.values())
        found: list[Config] = []
        for config in _combinations(space, values):
            if space.allowed(config):
                found.append(config)
            if len(found) > self.max_points:
                factors = ", ".join(f"{name} {len(each)}" for name, each in sorted(
                    values.items(), key=lambda item: -len(item[1])
                ) if len(each) > 1)  # fmt: skip
                raise InputError(
                    f"grid: up to {most:,} points ({factors}), and max_points={self.max_points:,}; give fewer "
                    "values or points, raise max_points, or take random"
                )
        return tuple(found)

    def _values(self, space: Space, name: str) -> list[Any]:
        parameter = space[name]
        count = parameter.count
        asked = self.points.get(name) if isinstance(self.points, Mapping) else self.points
        if isinstance(self.points, Mapping):
            for given in self.points:
                if given not in space.names:
                    raise InputError(
                        f"grid: points: there is no parameter '{given}'.{nearest(given, space.names)}"
                    )
        named = isinstance(self.points, Mapping) and name in self.points
        if math.isfinite(count) and not (named and asked is not None and asked < count):
            if count > self.max_points:
                raise InputError(f"grid: '{name}' has {count:,.0f} values; give points={{'{name}': 5}}, or a step")
            return parameter.values()
        if asked is None:
            raise InputError(
                f"grid: '{name}' is continuous; say how many values of it to try: points={{'{name}': 5}}, or give "
                "it a step"
            )
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise RecipeError(f"grid: points of '{name}' are {asked!r}, and must be a whole number of at least 1")
        units = [0.5] if asked == 1 else np.linspace(0.0, 1.0, asked).tolist()
        return list(dict.fromkeys(parameter.decode(unit) for unit in units))


def listed(space: Space, most: int) -> list[Config]:
    """Return all configurations of a space, or `most` and one more where it has more, or a parameter does."""
    if any(space[name].count > most for name in space.names):
        return [Config()] * (most + 1)
    values = {name: space[name].values() for name in space.names}
    seen = islice(_combinations(space, values), MANY * most)
    found = list(islice((config for config in seen if space.allowed(config)), most + 1))
    return found if next(seen, None) is None else [Config()] * (most + 1)


def _combinations(space: Space, values: Mapping[str, list[Any]], done: Config | None = None) -> Iterator[Config]:
    """Yield the combinations of the parameters from `done` on, inactive ones left out."""
    done = {} if done is None else done
    left = [name for name in space.names if name not in done and _active(space, name, done)]
    if not left:
        yield dict(done)
        return
    for value in values[left[0]]:
        yield from _combinations(space, values, done | {left[0]: value})


def _active(space: Space, name: str, config: Config) -> bool:
    found = space[name].when
    return found is None or found(config)
