"""Towards a latency: widths go in the order of what is lost for each millisecond that is saved on the target.

Kernels work on blocks of channels, so the time falls in steps: most widths save nothing. A move therefore takes
a group from its width to any smaller one, and the greedy answer to this knapsack takes the move that loses least
for the time it saves; widths that lie on a step are jumped over. The first choice that the clock says is fast
enough is really cut, exported and timed; what the clock missed corrects it, and the choice is repaired until it
holds. A last move may have overshot by far: what fits into the time that it left is given back, the highest
scores first.

Sources: a table of operator times: Yang et al., "NetAdapt", ECCV 2018, arXiv:1804.03230; the knapsack: Shen et
al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022, arXiv:2210.06659. The jumps and the repair
are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from paretune.prune._analysis import Analysis
from paretune.prune._couplings.units import Axis
from paretune.prune._ranking import Ranked, removed_units
from paretune.prune._selection.budget import Budget
from paretune.prune._selection.clock import Clock, Term
from paretune.prune._selection.path import stops_of
from paretune.prune._surgery.surgery import Keep

LEVELS = 8
"""About so many widths of a group are considered."""
TRIES = 8
"""So many candidates are cut and timed at most."""
REPAIRS = 4
"""So often what is given back is timed, and less is given back where the clock had told too little."""
LEAST = 1e-6
"""Milliseconds; less is no saving."""

Counts = list[int]
"""Bundles that each group has lost."""


def by_clock(
    analysis: Analysis, ranked: list[Ranked], bound: Budget, multiple: int
) -> tuple[Counts | None, Counts]:
    """Return the gentlest counts that hold the bound as measured, None where none does; and those that save most.

    The whole model and the smallest cut are timed first. Each further measurement narrows the way between one that
    is too slow and one that holds, on which the clock is read.
    """
    assert bound.timing is not None
    clock, limit = bound.timing.clock, bound.limit / bound.full

    def measured(counts: Counts) -> float:
        return bound.cost(removed_units(ranked, counts)) / bound.full

    nothing = [0] * len(ranked)
    if limit >= 1:
        return nothing, nothing
    knapsack = Knapsack(analysis, ranked, clock, multiple)
    try:
        path = knapsack.path()
    finally:  # a minute of timings is not lost where this is interrupted
        clock.table.save()
    least = measured(path[-1])
    clock.anchor(knapsack.keep(path[-1]), least)
    if least > limit:
        return None, path[-1]
    told = [knapsack.ratio(counts) for counts in path]
    slow, fast = Seen(0, 1.0, 1.0), Seen(len(path) - 1, told[-1], least)
    for _ in range(TRIES):
        aim = slow.told_at(fast, limit)
        step = next(step for step in range(slow.step + 1, fast.step + 1) if step == fast.step or told[step] <= aim)
        if step == fast.step:
            break
        seen = Seen(step, told[step], measured(path[step]))
        slow, fast = (slow, seen) if seen.took <= limit else (seen, fast)
    counts = path[fast.step]
    for _ in range(REPAIRS):
        gentler = knapsack.given_back(counts, slow.told_at(fast, limit))
        took = measured(gentler)
        if took <= limit:
            return gentler, path[-1]
        slow = Seen(fast.step, knapsack.ratio(gentler), took)
    return counts, path[-1]


@dataclass(frozen=True)
class Seen:
    """A step of the path, and its time as it was told and as it was measured, as ratios."""

    step: int
    told: float
    took: float

    def told_at(self, other: Seen, took: float) -> float:
        """Return what is told of a measured time, on the straight line between two that were measured."""
        if self.took == other.took:
            return other.told
        return other.told + (took - other.took) * (self.told - other.told) / (self.took - other.took)


@dataclass(frozen=True)
class Knapsack:
    """What groups may lose, what they lose by it, and what it saves by the clock."""

    analysis: Analysis
    ranked: list[Ranked]
    clock: Clock
    multiple: int

    @cached_property
    def stops(self) -> list[Axis]:
        """How many bundles each group may lose."""
        return [stops_of(r, _grain(r, self.multiple)) for r in self.ranked]

    @cached_property
    def terms(self) -> list[list[Term]]:
        """What of the time each group changes."""
        return [self.clock.touched(r.bundles.ravel()) for r in self.ranked]

    def keep(self, counts: Counts) -> Keep:
        """Return for every unit whether it stays."""
        return self.analysis.keep(removed_units(self.ranked, counts))

    def ms(self, counts: Counts, terms: list[Term]) -> float:
        """Return the time of some terms."""
        return self.clock.ms(self.keep(counts), terms)

    def ratio(self, counts: Counts) -> float:
        """Return the time of counts as a fraction of the whole model's."""
        return self.clock.ratio(self.keep(counts))

    def path(self) -> list[Counts]:
        """Return counts after every move that saves time, the one that loses least for it first, from none on."""
        path = [[0] * len(self.ranked)]
        best = {index: self._best_move(path[0], index) for index in range(len(self.ranked))}
        while best:
            index = min(best, key=lambda i: best[i][0])
            if best[index][0] == math.inf:
                break
            path.append(_moved(path[-1], index, best[index][1]))
            mine = set(map(id, self.terms[index]))
            for other, terms in enumerate(self.terms):
                if not mine.isdisjoint(map(id, terms)):
                    best[other] = self._best_move(path[-1], other)
        return path

    def _best_move(self, counts: Counts, index: int) -> tuple[float, int]:
        """Return (what is lost for each millisecond, bundles lost) of the best move of a group."""
        now, best = self.ms(counts, self.terms[index]), (math.inf, counts[index])
        for after in map(int, self.stops[index][self.stops[index] > counts[index]]):
            saved = now - self.ms(_moved(counts, index, after), self.terms[index])
            if saved > LEAST:
                loss = float(self.ranked[index].scores[counts[index] : after].sum())
                best = min(best, (loss / saved if loss > 0 else loss * saved, after))
        return best

    def given_back(self, counts: Counts, limit: float) -> Counts:
        """Return counts with bundles given back, the highest scores first, while the clock holds the limit."""
        left = self.clock.ms_at(limit) - self.clock.ms(self.keep(counts))
        while True:
            best: tuple[float, int, int, float] | None = None
            for index, terms in enumerate(self.terms):
                now = self.ms(counts, terms)
                for before in map(int, self.stops[index][self.stops[index] < counts[index]]):
                    took = self.ms(_moved(counts, index, before), terms) - now
                    won = float(self.ranked[index].scores[before : counts[index]].sum())
                    if took <= left + LEAST and won > (best[0] if best else 0):
                        best = won, index, before, took
            if best is None:
                return counts
            _, index, before, took = best
            counts, left = _moved(counts, index, before), left - took


def _moved(counts: Counts, index: int, count: int) -> Counts:
    return [*counts[:index], count, *counts[index + 1 :]]


def _grain(r: Ranked, multiple: int) -> int:
    """Return the multiple of which widths are considered: about LEVELS of them, and what was asked for."""
    coarse = 2 ** max(0, int(math.log2(max(1, r.width / LEVELS))))
    both = math.lcm(coarse, multiple)
    return both if len(stops_of(r, both)) > 1 else multiple
