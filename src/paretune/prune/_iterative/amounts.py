"""How much goes in each cut: a final amount split over rounds, and over the cuts of a round.

Both may shrink from round to round: round i takes a share of the way proportional to shrink^i, in
round(cuts * shrink^i) cuts, at least one. With shrink=1 the shares are equal: each cut keeps the same fraction of
what the one before left (geometric), as in Han et al., arXiv:1506.02626, and Frankle and Carbin, arXiv:1803.03635.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from paretune.errors import RecipeError, is_number
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Step, amount

KEPT = ("macs", "params", "size", "latency")
"""Fields of a step that say which fraction stays."""
SPLIT = (*KEPT, "ratio", "count")
"""Fields whose value can be reached in rounds: `ratio` says which fraction goes (with `Step.ratio_stays`, which
stays), `count` how many go."""
LISTED = (*SPLIT, "threshold", "similarity")
"""Fields that a list of amounts may set."""


@dataclass(frozen=True)
class Way:
    """The field of a pruning step that changes from cut to cut, and where it ends."""

    field: str
    value: float
    """A fraction, or a whole number where things are counted."""
    text: bool = False
    """True where the step wants it as text: "0.5x"."""
    cumulative: bool = False
    """True where the amounts are of the model that came in, whatever an earlier cut took."""
    stays: bool = True
    """True where the value says what stays; where it says what goes, False."""

    def amounts(self, parts: Sequence[float]) -> list[Any]:
        """Return the value of the field for every cut; parts: the share of the way of each, with the sum 1."""
        reached = [*list(accumulate(parts))[:-1], 1.0]
        if self.field == "count":
            counts = [round(self.value * part) for part in reached]
            return counts if self.cumulative else [new - old for old, new in pairwise((0, *counts))]
        left = self.value if self.stays else 1 - self.value
        kept = [left**part for part in reached]
        if not self.cumulative:
            kept = [new / old for old, new in pairwise((1.0, *kept))]
        found = [round(fraction if self.stays else 1 - fraction, 12) for fraction in kept]
        return [f"{value}x" if self.text else value for value in found]


def shares(rounds: int, cuts: int, shrink: float) -> list[list[float]]:
    """Return the share of the way that each cut of each round takes; all together 1.

    >>> shares(2, 1, 1.0)
    [[0.5], [0.5]]
    >>> [[round(part, 3) for part in row] for row in shares(2, 2, 0.5)]
    [[0.333, 0.333], [0.333]]
    """
    weights = [shrink**index for index in range(rounds)]
    counts = [max(1, round(cuts * weight)) for weight in weights]
    total = math.fsum(weights)
    return [[weight / total / count] * count for weight, count in zip(weights, counts, strict=True)]


def field_of(step: Step, fields: Sequence[str]) -> str:
    """Return the one of these fields that a step sets; RecipeError where it sets none or several."""
    given = [name for name in fields if getattr(step, name, None) is not None]
    if len(given) != 1:
        raise RecipeError(
            f"prune.iterative: prune: {step.name} sets {' and '.join(given) or 'none'} of {', '.join(fields)}; "
            "give it the one that the rounds shall reach, for example {prune.channels: {macs: 0.5}}"
        )
    return given[0]


def way_of(step: Step) -> Way:
    """Return where the rounds of a step end; RecipeError where that cannot be split over rounds."""
    name = field_of(step, SPLIT)
    asked = getattr(step, name)
    if name == "count":
        return Way(name, int(asked), cumulative=step.cumulative)
    number, relative = float(asked) if is_number(asked) else 0.0, is_number(asked) and asked <= 1
    if not is_number(asked):
        units = {"latency": LATENCY_UNITS, "size": SIZE_UNITS}.get(name, {"K": 1e3, "M": 1e6, "G": 1e9})
        number, relative = amount(asked, units, f"{step.name}: {name}")
    if not relative:
        raise RecipeError(
            f"prune.iterative: {step.name}: {name}={asked!r} cannot be split over rounds; give the fraction "
            f"that is left in the end ({name}: 0.5), or amounts, one for each round"
        )
    return Way(
        name,
        number,
        text=name == "latency",
        cumulative=step.cumulative or (name == "ratio" and step.of_whole),
        stays=name != "ratio" or step.ratio_stays,
    )
