"""A file as a real-time service sees it: requests arrive at a fixed rate, whether the last one is done or not.

Open loop: a request's latency counts from the moment it was due, so that time spent waiting behind others
counts. A loop that sends the next request when the last is answered leaves out just the requests that would have
waited ("coordinated omission"), and shows a service that is too slow as one that is fine.

Tene, "How not to measure latency", Strange Loop 2015. One worker, one queue, first come first served.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretune.errors import InputError
from paretune.measure._engine import open_engine
from paretune.measure._feeds import example_feeds, reference_inputs
from paretune.target import Target

PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SPIN_SECONDS = 0.001


@dataclass(frozen=True)
class Service:
    """What clients of the service saw."""

    rate: float
    """Requests due per second."""
    deadline_ms: float
    sent: int
    """Requests that were due."""
    served: int
    """Requests answered before the run was cut off, at twice its length."""
    p50_ms: float
    """From due to answered; a request that was never answered counts as infinitely late, written as null."""
    p99_ms: float
    missed: int
    """Requests answered after the deadline, or never."""
    missed_fraction: float
    throughput: float
    """Answers per second, from the first arrival to the last answer."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return {
            key: None if isinstance(value, float) and math.isinf(value) else value
            for key, value in asdict(self).items()
        }


def serve(
    path: Path | str,
    *,
    rate: str | float,
    deadline: str | float,
    seconds: float = 10.0,
    target: Target | None = None,
    inputs: Any = None,
) -> Service:
    """Send requests to a file at a fixed rate and count who was answered in time.

    rate: "50/s", "600/min", or requests per second. deadline: "20ms", or milliseconds.
    inputs: as `example_feeds` takes them; else those stored beside the file, else made up.
    """
    target = target or Target()
    per_second, deadline_ms = parse_rate(rate), parse_deadline(deadline)
    if not seconds > 0:
        raise InputError(f"serve: seconds={seconds!r} must be above 0")
    engine = open_engine(Path(path), target)
    given = inputs if inputs is not None else reference_inputs(Path(path))
    call = engine.bind(example_feeds(engine, target.batch, given))
    for _ in range(10):
        call()
    sent = max(1, round(per_second * seconds))
    latencies, elapsed = _answer(call, sent, per_second, 2 * seconds)
    return summarise(latencies, per_second, deadline_ms, elapsed)


def summarise(latencies_ms: np.ndarray, rate: float, deadline_ms: float, elapsed: float) -> Service:
    """Return what latencies (requests,) in milliseconds amount to; infinite ones were never answered."""
    served = int(np.isfinite(latencies_ms).sum())
    missed = int(np.sum(latencies_ms > deadline_ms))
    p50, p99 = np.quantile(latencies_ms, (0.5, 0.99), method="higher")
    return Service(
        rate=rate,
        deadline_ms=deadline_ms,
        sent=len(latencies_ms),
        served=served,
        p50_ms=float(p50),
        p99_ms=float(p99),
        missed=missed,
        missed_fraction=missed / len(latencies_ms),
        throughput=served / elapsed,
    )


def parse_rate(text: str | float) -> float:
    """Return requests per second.

    >>> parse_rate("600/min")
    10.0
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*([0-9.]+)\s*/\s*(s|min|h)\s*", str(text))
        value = _number(match[1]) / PERIODS[match[2]] if match else math.nan
    if not 0 < value < math.inf:
        raise InputError(f"rate '{text}' is no positive rate; write requests per s, min or h, for example 50/s")
    return value


def parse_deadline(text: str | float) -> float:
    """Return milliseconds.

    >>> parse_deadline("0.5s")
    500.0
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s)\s*", str(text))
        value = _number(match[1]) * MILLISECONDS[match[2]] if match else math.nan
    if not 0 < value < math.inf:
        raise InputError(f"deadline '{text}' is no positive time; write it in us, ms or s, for example 20ms")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _answer(call: Callable[[], Any], sent: int, rate: float, longest: float) -> tuple[np.ndarray, float]:
    """Return (requests,) milliseconds from due to answered, and the seconds that the whole took."""
    latencies = np.full(sent, math.inf)
    start = time.perf_counter()
    for number in range(sent):
        due = start + number / rate
        _wait_until(due)
        if time.perf_counter() - start > longest:
            break
        call()
        latencies[number] = (time.perf_counter() - due) * 1e3
    return latencies, time.perf_counter() - start


def _wait_until(moment: float) -> None:
    """Sleep, and spin through the last millisecond: a sleep wakes up late, and that is not the file's doing."""
    left = moment - time.perf_counter()
    if left > SPIN_SECONDS:
        time.sleep(left - SPIN_SECONDS)
    while time.perf_counter() < moment:
        pass
