"""The frame of a drawing and its axes: numbers -> pixels, and the round numbers to write beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 540, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 34, 46


@dataclass(frozen=True)
class Axis:
    """A range of numbers laid out over a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; a value outside the range lands on its end."""
        low, high, at = (math.log(max(v, 1e-300)) if self.log else v for v in (self.low, self.high, value))
        if math.isinf(high - low):  # ends near the largest float, whose distance is none
            low, high, at = low / 2, high / 2, at / 2
        share = min(max((at - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers from low to high, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = high / count - low / count  # the distance itself may be no float
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from low to high; the powers alone over more than three decades, every
    few of them over more than ten."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    first, last = math.floor(math.log10(low)), min(math.ceil(math.log10(high)), 308)
    powers = range(first, last + 1, max(1, -(-(last - first) // 10)))
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if math.isfinite(value) and low * 0.999 <= value <= high * 1.001]
