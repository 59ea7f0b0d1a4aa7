"""The ladder of budgets and the brackets of Hyperband, in whole numbers.

From b_max downwards each budget is 1/eta of the one above while it stays at b_min or above. Logarithms in floating
point lose a rung where eta^k is exactly the ratio (1 to 243 with eta 3 has six rungs; log(243) / log(3) is
4.999...); dividing does not.

Source: Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization", JMLR 2018,
arXiv:1603.06560, Algorithm 1. Bracket sizes are those of its authors' successor: floor(K / (s + 1)) eta^s as in
HpBandSter's code, where Falkner et al., arXiv:1807.01774, print ceil(K eta^s / (s + 1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from paretune.errors import InputError, is_number

Budget = int | float


@final
@dataclass(frozen=True)
class Bracket:
    """One round of successive halving: how many configurations run at which rungs."""

    rungs: tuple[int, ...]
    """Indices into the ladder, from where the bracket starts to the top."""
    sizes: tuple[int, ...]
    """Configurations at each of them."""


def ladder(low: Budget, high: Budget, eta: int = 3) -> tuple[Budget, ...]:
    """Return the budgets from the smallest to `high`; whole numbers where both ends are.

    >>> ladder(9, 729), ladder(1, 100)
    ((9, 27, 81, 243, 729), (1, 4, 11, 33, 100))
    """
    for name, value in (("min", low), ("max", high)):
        if not is_number(value) or not 0 < value < math.inf:
            raise InputError(f"budget: {name}={value!r} must be a number above 0")
    if low > high:
        raise InputError(f"budget: min={low:g} is above max={high:g}")
    if low == high:
        raise InputError(
            f"budget: min={low:g} equals max, which leaves a single rung; give max= alone, to `random` or `bayes`"
        )
    if not isinstance(eta, int) or isinstance(eta, bool) or eta < 2:
        raise InputError(f"eta={eta!r} must be a whole number of 2 or more: one of eta goes on to the next rung")
    rungs = [_exactly(high)]
    while rungs[0] / eta >= _exactly(low):
        rungs.insert(0, rungs[0] / eta)
    if len(rungs) == 1:
        raise InputError(
            f"budget: min={low:g} leaves a single rung below max={high:g} with eta={eta}; give at most "
            f"min={high / eta:g}"
        )
    whole = isinstance(low, int) and isinstance(high, int)
    return tuple(math.floor(rung + Fraction(1, 2)) if whole else float(rung) for rung in rungs)


def _exactly(value: Budget) -> Fraction:
    """Return a number as it was written: 0.1 is a tenth, which its binary form is not."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(float(value)))


def amount(budget: Budget | None) -> float:
    """Return a budget as a number; 1 where a study has none."""
    return 1.0 if budget is None else float(budget)


def share_of(budget: Budget | None, top: Budget | None) -> float:
    """Return a budget as a part of the largest; 1 where a study has none."""
    return 1.0 if budget is None or top is None else float(budget) / float(top)


def shares_of(budgets: Sequence[Budget | None]) -> list[float]:
    """Return each budget as a part of the largest.

    >>> shares_of((1, 3, 9)), shares_of((None,))
    ([0.1111111111111111, 0.3333333333333333, 1.0], [1.0])
    """
    return [share_of(budget, budgets[-1]) for budget in budgets]


def brackets(rungs: int, eta: int = 3) -> tuple[Bracket, ...]:
    """Return the brackets of one round of Hyperband over a ladder of so many rungs, the widest first.

    >>> [bracket.sizes for bracket in brackets(5)]
    [(81, 27, 9, 3, 1), (27, 9, 3, 1), (9, 3, 1), (6, 2), (5,)]
    """
    found = []
    for halvings in reversed(range(rungs)):
        first = rungs // (halvings + 1) * eta**halvings
        sizes = tuple(max(1, first // eta**step) for step in range(halvings + 1))
        found.append(Bracket(tuple(range(rungs - 1 - halvings, rungs)), sizes))
    return tuple(found)
