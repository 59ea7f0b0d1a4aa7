"""What a criterion is: how weights are compared, and what becomes of those that are out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Criterion:
    """How gradual pruning chooses; the functions take and return tensors of the weight's shape."""

    importance: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(weight, stays, score) -> importance, the lowest go first. weight: what is set aside included; stays:
    bool."""
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    """(weight, gradient) -> what each step adds to the score of a weight; None where there is no score."""
    sets_aside: bool = False
    """Weights that go are kept aside as they were, and come back so; else they come back from zero."""
    trains_aside: bool = False
    """The optimizer moves what is set aside too, by the gradient at zero."""
    exchanged: float = 0.0
    """Part of the weights that stay which is given, at the ramp's begin, to those of the largest gradient."""
