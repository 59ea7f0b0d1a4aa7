"""Before a study begins: which method suits it, with the reason.

Rules and not a model: each has one threshold, that of the method it speaks of, or a time measured on this
package's own samplers (`benchmarks/overhead.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from paretune.search._schedule.ladder import Bracket, Budget, shares_of
from paretune.search._schedule.schedules import Halving, Hyperband
from paretune.search.samplers._base import Sampler

SMALL = 1000
"""Configurations of a grid that anyone would run to its end."""
STARTUP = 10
"""Full runs before TPE has a model: `Bayes.startup`."""
EARLY = 12
"""Runs on one budget before BOHB has one: `Bohb.early`."""
SUGGESTING = 0.02
"""Seconds that TPE takes for a suggestion at a thousand results, rounded up."""
VERY_MANY = 10_000
"""Runs beyond which a model's suggestions, which grow with them, take a tenth of a second and more."""


@final
@dataclass(frozen=True)
class Advice:
    """Which method suits a study."""

    method: str
    reason: str


def brackets_of(sampler: Sampler, workers: int) -> tuple[Bracket, ...]:
    """Return a sampler's brackets, the widest first; none where it has one budget."""
    schedule = sampler.schedule(workers)
    return tuple(schedule.plan) if isinstance(schedule, Hyperband | Halving) else ()


def full_runs(counts: Sequence[int], budgets: Sequence[Budget | None]) -> float:
    """Return what runs on each budget come to in full ones."""
    return sum(count * share for count, share in zip(counts, shares_of(budgets), strict=True))


def advise(
    configurations: float, budgets: Sequence[Budget | None], runs: float | None, seconds: float | None = None
) -> Advice:
    """Return the method that suits a study.

    configurations: how many there are, infinity where a parameter is continuous. budgets: those that a run may
    have, one alone where it always runs to its end. runs: full ones that the study may do, None where that is not
    known. seconds: of a full run.
    """
    if configurations <= SMALL and runs is not None and configurations <= runs:
        return Advice(
            "grid", f"all {configurations:,.0f} configurations fit in the budget of {runs:,.4g} full runs"
        )
    if seconds is not None and seconds < SUGGESTING:
        return Advice(
            "random",
            f"a run takes {1000 * seconds:.3g} ms, less than a model's suggestion ({1000 * SUGGESTING:.0f} ms): "
            "more runs find more",
        )
    if runs is not None and runs > VERY_MANY:
        return Advice(
            "random",
            f"{runs:,.0f} runs cover the space by themselves, and a model would be asked ever more slowly",
        )
    if len(budgets) > 1:
        smallest = shares_of(budgets)[0]
        if runs is not None and runs / smallest < EARLY:
            return Advice(
                "hyperband", f"{runs:.3g} full runs are over before a model has its first {EARLY} results"
            )
        return Advice(
            "bohb",
            f"runs on budget {budgets[0]:g} cost {smallest:.2g} of one on {budgets[-1]:g}: poor configurations "
            f"are dropped early, and a model begins after {EARLY} of them",
        )
    if runs is not None and runs < STARTUP:
        return Advice("random", f"{runs:.3g} full runs are over before a model begins, which is after {STARTUP}")
    many = "runs" if runs is None else f"{runs:,.4g} runs"
    return Advice(
        "bayes",
        f"{many}, all of them full ones: a model makes the most of each; could a run be cut short, bohb would",
    )
