"""Latency as a paired ratio: baseline and candidates timed in turn, so that what slows one slows the other.

A round times a short block of calls (about 20 ms) of every engine; its order is drawn, and the next round runs
it backwards, which cancels a drift. A block's time is its median call: an interrupted call does not count. The
ratio of a round is candidate / baseline in that round; over rounds its median is bootstrapped in blocks, for
neighbouring rounds share their noise. The engines are made anew several times: where memory happens to lie makes
one a percent faster or slower for its whole life, and that is luck, not a property of the file; the bootstrap
draws these instances first.

It gives no verdict under noise: a disturbed stretch is timed again, and after a few tries it is "too noisy".
Inputs are private copies, checked to be unchanged, for a runtime that writes into its input times something else.

Georges et al., "Statistically rigorous Java performance evaluation", OOPSLA 2007, doi:10.1145/1297027.1297033
(why several instances and intervals); the pairing is ours.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretune.errors import InputError, RunError
from paretune.measure._engine import Feeds, open_engine
from paretune.measure._feeds import example_feeds, reference_inputs
from paretune.measurement import Latency, Verdict
from paretune.statistics import bootstrap_ratio
from paretune.target import Target

FASTER, SLOWER = 0.98, 1.02
WIDEST = 0.1
"""An interval of the ratio wider than this tells nothing."""
WANDERING = 1.2
"""Median / minimum of the baseline's rounds above which the machine is not steady enough."""
BLOCK_SECONDS = 0.02
FEWEST_ROUNDS = 16
INSTANCES = 8
FEWER_INSTANCES = 4
"""Where to load and warm up all files once takes a quarter of the time they are to be timed for."""
ATTEMPTS = 5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timed:
    """What was timed of every engine, in order."""

    rounds: np.ndarray
    """(rounds, engines) milliseconds: the median call of each block."""
    calls: tuple[np.ndarray, ...]
    """Per engine (calls,) milliseconds of every single call."""
    instances: np.ndarray
    """(rounds,) which instance of the engines each round timed."""

    def then(self, later: Timed) -> Timed:
        """Return both stretches as one."""
        calls = tuple(np.concatenate(pair) for pair in zip(self.calls, later.calls, strict=True))
        instances = np.concatenate([self.instances, later.instances + self.instances[-1] + 1])
        return Timed(np.concatenate([self.rounds, later.rounds]), calls, instances)

    @property
    def noise(self) -> float:
        """Median / minimum of the baseline's rounds."""
        return float(np.median(self.rounds[:, 0]) / self.rounds[:, 0].min())


def latency(
    files: Sequence[Path | str],
    target: Target,
    *,
    rounds: int | None = None,
    seconds: float = 2.0,
    inputs: Any = None,
) -> list[Latency]:
    """Time files against the first, the baseline, in interleaved rounds on the target.

    rounds: exactly so many, once. Without it, rounds for about `seconds` per file, and again (at most 5 times)
    while a verdict is "too noisy" and the file is not slower for certain: after a wandering baseline from the
    start, after a wide interval in addition.
    inputs: real inputs, as `example_feeds` takes them; else those stored beside the first file that has some,
    else made up.
    Returns one Latency per file; the baseline's has ratio 1 and no verdict.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise InputError("latency: give at least one file; the first is the baseline")
    timed: Timed | None = None
    results: list[Latency] = []
    for _ in range(1 if rounds else ATTEMPTS):
        stretch = _stretch(paths, target, rounds, seconds, inputs)
        timed = stretch if timed is None or timed.noise > WANDERING else timed.then(stretch)
        results = summarise(timed)
        if timed.noise <= WANDERING and not any(map(_worth_more_rounds, results)):
            break
    return results


def summarise(timed: Timed) -> list[Latency]:
    """Return a Latency per engine from the rounds; column 0 is the baseline."""
    return [_summary(timed, column) for column in range(len(timed.calls))]


def verdict(low: float, high: float, noise: float) -> Verdict:
    """Return what an interval of the ratio says; nothing where it is wide or the baseline wandered."""
    if high - low > WIDEST or noise > WANDERING:
        return "too noisy"
    if high < FASTER:
        return "faster"
    return "slower" if low > SLOWER else "same"


def _worth_more_rounds(result: Latency) -> bool:
    """Say whether more rounds may give a verdict that matters; what is slower for certain is not timed again."""
    return result.verdict == "too noisy" and result.ratio_low <= SLOWER


def _summary(timed: Timed, column: int) -> Latency:
    calls = timed.calls[column]
    ratio, low, high = (1.0, 1.0, 1.0)
    if column:
        ratio, low, high = bootstrap_ratio(timed.rounds[:, 0], timed.rounds[:, column], groups=timed.instances)
    return Latency(
        median_ms=float(np.median(calls)),
        p99_ms=float(np.quantile(calls, 0.99)),
        min_ms=float(calls.min()),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        verdict=verdict(low, high, timed.noise) if column else None,
        rounds=len(timed.rounds),
        load_average=load_average(),
        noise=timed.noise,
    )


def load_average() -> float:
    """Return the machine's 1-minute load, 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _stretch(paths: Sequence[Path], target: Target, rounds: int | None, seconds: float, inputs: Any) -> Timed:
    """Time one stretch, its rounds spread over several instances of every engine."""
    generator = np.random.default_rng()
    timed: Timed | None = None
    left, instances = rounds, INSTANCES
    while timed is None or left:
        start = time.perf_counter()
        calls, check = _instances(paths, target, inputs)
        sizes = [_calls_per_block(call) for call in calls]
        if timed is None:
            slowest = max(size * took for size, took in sizes)
            left = left or max(FEWEST_ROUNDS, round(seconds / max(slowest, BLOCK_SECONDS)))
            if time.perf_counter() - start > seconds / 4:
                instances = FEWER_INSTANCES
        assert left is not None
        share = -(-left // instances)
        part = _rounds(calls, [size for size, _ in sizes], share, generator)
        check()
        timed = part if timed is None else timed.then(part)
        left, instances = left - share, instances - 1
    return timed


def _instances(paths: Sequence[Path], target: Target, inputs: Any) -> tuple[list[Call], Callable[[], None]]:
    """Return one bound call per file, and a check that no engine wrote into its input."""
    if inputs is None:
        inputs = reference_inputs(*paths)
    calls: list[Call] = []
    given: list[tuple[Path, Feeds, Feeds]] = []
    for path in paths:
        engine = open_engine(path, target)
        feeds = example_feeds(engine, target.batch, inputs)
        private = {name: array.copy() for name, array in feeds.items()}
        given.append((path, private, feeds))
        calls.append(engine.bind(private))
        _first_call(path, calls[-1])

    def check() -> None:
        for path, private, feeds in given:
            for name, array in feeds.items():
                if not np.array_equal(private[name], array, equal_nan=array.dtype.kind == "f"):
                    raise RunError(f"{path}: the runtime overwrote its input '{name}'; its timing means nothing")

    return calls, check


def _first_call(path: Path, call: Call) -> None:
    try:
        call()
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(f"{path} does not run on the example input: {reason}") from error


def _calls_per_block(call: Call) -> tuple[int, float]:
    """Warm an engine up; return how many calls fill a block, and seconds per call."""
    times: list[float] = []
    until = time.perf_counter() + 2 * BLOCK_SECONDS
    while not times or (time.perf_counter() < until and len(times) < 2000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    took = float(np.median(times))
    return int(np.clip(BLOCK_SECONDS / took, 1, 1000)), took


def _rounds(calls: Sequence[Call], sizes: Sequence[int], count: int, generator: np.random.Generator) -> Timed:
    """Time `count` rounds: every engine's block, in an order drawn anew every second round, then reversed."""
    medians = np.empty((count, len(calls)))
    single: list[list[np.ndarray]] = [[] for _ in calls]
    order = np.arange(len(calls))
    enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(count):
            order = order[::-1] if number % 2 else generator.permutation(len(calls))
            for column in map(int, order):
                times = _block(calls[column], sizes[column])
                medians[number, column] = np.median(times)
                single[column].append(times)
    finally:
        if enabled:
            gc.enable()
    return Timed(medians, tuple(np.concatenate(times) for times in single), np.zeros(count, int))


def _block(call: Call, size: int) -> np.ndarray:
    """Return (size,) milliseconds of single calls, after one that refills the caches and is not timed."""
    clock, times = time.perf_counter_ns, np.empty(size)
    if size > 1:
        call()
    for i in range(size):
        start = clock()
        call()
        times[i] = clock() - start
    return times / 1e6
