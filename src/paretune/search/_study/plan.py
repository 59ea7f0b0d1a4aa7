"""The plan of a study: how many runs fit into its limits, rung by rung, worked out with the schedule itself.

The schedule is driven with made-up losses, on workers whose runs take what is expected of each rung, until a limit
is reached. What a run will take is not known before the first ones have ended: until then limits in seconds say
nothing, and the counts are None.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from paretune.errors import InputError, is_number
from paretune.search._cost import Cost
from paretune.search._results import Array
from paretune.search._schedule.ladder import Budget, amount, shares_of
from paretune.search._schedule.schedules import Job, NothingFits
from paretune.search._study.limits import Limits
from paretune.search.samplers._base import Sampler

MOST = 500
"""So many runs are played out; beyond them counts grow in proportion."""
KNOWN = 100
"""The latest configurations stand for those to come."""
NEAR = 1e-9


def expected_runs(
    sampler: Sampler,
    limits: Limits,
    workers: int = 1,
    seconds_per_full_run: float | None = None,
    repeats: int = 1,
) -> dict[str, Any]:
    """Return what a study will probably do, as plain numbers; nothing is started.

    seconds_per_full_run: what a run on the largest budget takes; smaller ones take their part of it. None: not
        known, and limits in seconds are left out. repeats: of each configuration on the largest budget.
    {"rungs": [{"budget", "runs"}], "runs", "full_runs", "seconds"}: full runs are those on the largest budget;
        seconds of wall time, None where not known; counts are None where only limits in seconds end the study and
        what a run takes is not known. A limit that is smaller than one run is an InputError.
    """
    if seconds_per_full_run is not None and (
        not is_number(seconds_per_full_run) or not 0 < seconds_per_full_run < math.inf
    ):
        raise InputError(f"seconds of a full run: {seconds_per_full_run!r} must be a number above 0")
    shares = shares_of(sampler.budgets)
    seconds = None if seconds_per_full_run is None else [seconds_per_full_run * share for share in shares]
    problem = too_small(limits, sampler.budgets, seconds)
    if problem:
        raise InputError(problem)
    return plan(sampler, limits, workers, seconds, repeats)


def plan(
    sampler: Sampler, limits: Limits, workers: int, seconds: Sequence[float] | None, repeats: int = 1
) -> dict[str, Any]:
    """Return what `expected_runs` does. seconds: of a run on each rung."""
    shares = shares_of(sampler.budgets)
    if seconds is None and limits.trials is None and limits.runs is None:
        return _told(sampler.budgets, None, None)
    most = math.inf if limits.trials is None else limits.trials
    limit = {
        "runs": math.inf if limits.runs is None else limits.runs,
        "wall": math.inf if limits.wall is None or seconds is None else limits.wall,
        "work": math.inf if limits.work is None or seconds is None else limits.work,
    }
    takes = [0.0] * len(shares) if seconds is None else list(seconds)
    counts, used = _played(sampler, workers, takes, min(most, MOST), limit, repeats)
    if sum(counts) >= MOST and most > MOST:
        factor = min([most / MOST, *(limit[name] / used[name] for name in limit if used[name] > 0)])
        counts, used["wall"] = [round(count * factor) for count in counts], used["wall"] * factor
    return _told(sampler.budgets, counts, None if seconds is None else used["wall"])


def _played(
    sampler: Sampler,
    workers: int,
    takes: Sequence[float],
    most: float,
    limit: Mapping[str, float],
    repeats: int,
) -> tuple[list[int], dict[str, float]]:
    """Return runs by rung, and what they used of each limit; the repeats of a full run are one after the other."""
    schedule, generator, shares = sampler.schedule(workers), np.random.default_rng(0), shares_of(sampler.budgets)
    counts, used, configs, begun = [0] * len(shares), dict.fromkeys(limit, 0.0), 0, 0
    running: list[tuple[float, int, Job, int]] = []
    losses: dict[int, float] = {}
    """Of every configuration the same on all budgets, as if each told the next one's order."""

    def fits(rung: int, config: int | None) -> bool:
        return all(used[name] + takes[rung] <= limit[name] + NEAR for name in ("wall", "work"))

    while True:
        while len(running) < workers and begun < most and used["runs"] < limit["runs"] - NEAR:
            try:
                job = schedule.next(fits)
            except NothingFits:
                most = begun  # it will not later on
                break
            config = configs if job.config is None else job.config
            configs += job.config is None
            times = repeats if job.rung == len(shares) - 1 else 1
            heapq.heappush(running, (used["wall"] + times * takes[job.rung], begun, job, config))
            begun += times
            counts[job.rung] += times
            used["runs"] += times * shares[job.rung]
            used["work"] += times * takes[job.rung]
        if not running:
            return counts, used
        used["wall"], _, job, config = heapq.heappop(running)
        schedule.tell(job, config, losses.setdefault(config, float(generator.random())))


def seconds_of(cost: Cost | None, rows: Array, budgets: Sequence[Budget | None]) -> list[float] | None:
    """Return what a run on each rung takes, the median over the configurations of rows (n, d)."""
    if cost is None:
        return None
    return [float(np.exp(np.median(cost.predict(rows[-KNOWN:], amount(budget))[0]))) for budget in budgets]


@final
class Marks:
    """When a plan is told: at the begin, when it is known what runs take, at every bracket, and where brackets do
    not end (`Halving`, `Flat`) as the configurations double."""

    def __init__(self) -> None:
        self._known, self._bracket, self._count = False, -1, 8

    def due(self, job: Job, configs: int, known: bool) -> bool:
        """Tell whether a plan is to be told as a job begins. configs: so many so far; known: what runs take."""
        opened = job.config is None and job.bracket > self._bracket
        found = opened or (known and not self._known) or configs >= self._count
        self._known, self._bracket = known, max(self._bracket, job.bracket)
        while configs >= self._count:
            self._count *= 2
        return found


def rest(limits: Limits, *, trials: int, runs: float, wall: float, work: float) -> Limits:
    """Return what is left of limits, of which so much is spent."""
    left = {"trials": trials, "runs": runs, "wall": wall, "work": work}
    known = {name: getattr(limits, name) for name in left}
    return Limits(**{name: None if known[name] is None else max(0, known[name] - left[name]) for name in left})


def too_small(limits: Limits, budgets: Sequence[Budget | None], seconds: Sequence[float] | None) -> str:
    """Return what is wrong with a limit that is smaller than one run; "" where none is."""
    share = shares_of(budgets)[0]
    if limits.runs is not None and limits.runs < share - 1e-9:
        return (
            f"budget: runs={limits.runs:g} is less than one run on the smallest budget, which is {share:.3g} of a "
            f"full run; give at least {math.ceil(share * 1000) / 1000:g}"
        )
    least = None if seconds is None else min(seconds)
    for name in ("wall", "work"):
        limit = getattr(limits, name)
        if least is not None and limit is not None and limit < least:
            return (
                f"budget: {name}={limit:g} s is less than one run, which takes about {least:.3g} s on the "
                f"smallest budget; give at least {math.ceil(least * 10) / 10:g} s"
            )
    return ""


def _told(budgets: Sequence[Budget | None], counts: Sequence[int] | None, seconds: float | None) -> dict[str, Any]:
    numbers: Sequence[int | None] = [None] * len(budgets) if counts is None else counts
    return {
        "rungs": [{"budget": budget, "runs": count} for budget, count in zip(budgets, numbers, strict=True)],
        "runs": None if counts is None else sum(counts),
        "full_runs": None if counts is None else counts[-1],
        "seconds": seconds,
    }
