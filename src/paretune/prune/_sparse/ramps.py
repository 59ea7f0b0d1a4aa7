"""Ramps: how the fraction of weights that are zero grows from 0 to 1 of its final value, as training goes on.

`cubic`: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
equation 1, arXiv:1710.01878: fast while much is redundant, slow at the end.
"""

from __future__ import annotations

from collections.abc import Callable


def one_shot(progress: float) -> float:
    """Return 1: all goes at the start of the ramp.

    >>> one_shot(0.0)
    1.0
    """
    return 1.0


def linear(progress: float) -> float:
    """Return the progress itself.

    >>> linear(0.5)
    0.5
    """
    return progress


def cubic(progress: float) -> float:
    """Return 1 - (1 - progress)^3.

    >>> cubic(0.5)
    0.875
    """
    return float(1 - (1 - progress) ** 3)


RAMPS: dict[str, Callable[[float], float]] = {"one_shot": one_shot, "linear": linear, "cubic": cubic}


def at(ramp: str, step: int, begin: int, end: int) -> float:
    """Return the part of the final ratio that is due after a step: 0 before `begin`, 1 from `end` on."""
    if step < begin:
        return 0.0
    return 1.0 if step >= end else RAMPS[ramp]((step - begin) / (end - begin))
