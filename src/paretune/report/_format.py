"""Numbers as people read them: bytes, counts, ratios, times, metrics. ASCII only, so any terminal prints them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from paretune.metrics import METRICS

MISSING = "-"
"""Stands where a number was not measured."""
MANY_SAMPLES = 5000
"""From here one sample is less than 0.02 points, and a second decimal means something."""


def bytes_text(count: float | None) -> str:
    """Return bytes in SI units, as disks and recipes count them.

    >>> bytes_text(1_234_567)
    '1.23 MB'
    """
    return _scaled(count, ("B", "KB", "MB", "GB", "TB"))


def count_text(count: float | None) -> str:
    """Return a count (parameters, multiply-accumulates) with k, M, G or T.

    >>> count_text(37_900_000)
    '37.9 M'
    """
    return _scaled(count, ("", "k", "M", "G", "T")).rstrip()


def ratio_text(ratio: float | None) -> str:
    """Return a ratio to the baseline: two decimals, but never fewer than two digits that count.

    >>> [ratio_text(value) for value in (1, 0.143, 0.0456, 12.31)]
    ['1.00x', '0.14x', '0.046x', '12.3x']
    """
    if not is_number(ratio):
        return MISSING
    decimals = 2 if abs(ratio) < 10 else 1
    if 0 < abs(ratio) < 0.1:
        decimals = min(1 - math.floor(math.log10(abs(ratio))), 9)
    return f"{ratio:.{decimals}f}x"


def milliseconds_text(milliseconds: float | None) -> str:
    """Return a time in ms, so that times compare at a glance; in us below 0.01 ms, in s from 1000 ms.

    >>> [milliseconds_text(value) for value in (0.33, 3.214, 1500, 0.0042)]
    ['0.33 ms', '3.21 ms', '1.5 s', '4.2 us']
    """
    if not is_number(milliseconds):
        return MISSING
    if 0 < abs(milliseconds) < 0.01:
        return f"{_digits(milliseconds * 1000)} us"
    return f"{_digits(milliseconds)} ms" if abs(milliseconds) < 1000 else f"{_digits(milliseconds / 1000)} s"


def seconds_text(seconds: float | None) -> str:
    """Return a duration.

    >>> [seconds_text(value) for value in (4.24, 75, 7265)]
    ['4.2 s', '1 min 15 s', '2 h 1 min']
    """
    if not is_number(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def metric_text(value: float | None, metric: Mapping[str, Any], *, unit: bool = True) -> str:
    """Return a value of a candidate's `metric`: percent for a fraction of samples, four digits for others.

    >>> metric_text(0.9833, {"name": "accuracy", "n": 899})
    '98.3 %'
    """
    if not is_number(value):
        return MISSING
    if not is_fraction(metric):
        return f"{value:.4g}"
    decimals = 2 if (metric.get("n") or 0) >= MANY_SAMPLES else 1
    return f"{100 * value:.{decimals}f}" + (" %" if unit else "")


def interval_text(low: float | None, high: float | None, metric: Mapping[str, Any]) -> str:
    """Return `97.2 to 99.0`, the ends of an interval of that metric; nothing where one is missing."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"{metric_text(low, metric, unit=False)} to {metric_text(high, metric, unit=False)}"


def narrow(interval: str) -> str:
    """Return `97.2-99.0` of `97.2 to 99.0`, where no minus sign makes that hard to read."""
    return interval if "-" in interval else interval.replace(" to ", "-")


def is_fraction(metric: Mapping[str, Any]) -> bool:
    """Say whether the metric is a fraction of samples: as the summary says, else as its name says."""
    known = METRICS.get(str(metric.get("name")))
    return bool(metric.get("fraction", known.fraction if known else False))


def greater_is_better(metric: Mapping[str, Any]) -> bool:
    """Say whether more of the metric is better: as the summary says, else as its name says, else yes."""
    known = METRICS.get(str(metric.get("name")))
    return bool(metric.get("greater_is_better", known.greater_is_better if known else True))


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether a value read from JSON can be shown and drawn: a finite number, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain_text(value: Any) -> str:
    """Return any JSON value in one short line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(item) for item in value)
    return str(value)


def _scaled(count: float | None, units: tuple[str, ...]) -> str:
    if not is_number(count):
        return MISSING
    value = float(count)
    for unit in units[:-1]:
        # 999.95 would round to 1000 in this unit; the next one writes it 1.
        if abs(value) < 999.5:
            return f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} {units[-1]}"


def _digits(value: float) -> str:
    """Return three significant digits without an exponent or trailing zeros."""
    if value == 0:
        return "0"
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 9)
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
