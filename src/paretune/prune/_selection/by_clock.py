"""Towards a latency: widths go in the order of what is lost for each millisecond that is saved on the target.

Kernels work on blocks of channels, so the time falls in steps: most widths save nothing. A move therefore takes
a group from its width to any smaller one, and the greedy answer to this knapsack takes the move that loses least
for the time it saves; widths that lie on a step are jumped over. The first choice that the clock says is fast
enough is really cut, exported and timed; what the clock missed corrects it, and the choice is repaired until it
holds. A last move may have overshot by far: what fits into the time that it left is given back, the highest
scores first.

Sources: a table of operator times: Yang et al., "NetAdapt", ECCV 2018, arXiv:1804.03230; the knapsack: Shen et
    al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022, arXiv:2210.06659. The jumps and the
    repair are ours.
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

    Each measurement corrects what the clock tells of the candidates beside it.
    """
    assert bound.clock is not None
    nothing = [0] * len(ranked)

    def measured(counts: Counts) -> float:
        return bound.cost(removed_units(ranked, counts))

    if measured(nothing) <= bound.limit:
        return nothing, nothing
    knapsack = Knapsack(analysis, ranked, bound.clock(), multiple)
    path = knapsack.path()
    told = [knapsack.ms(counts) for counts in path]
    bound.clock().table.save()
    low, high, factor = 0, len(path), 1.0
    for _ in range(TRIES):
        fast = [step for step in range(low + 1, high) if factor * told[step] <= bound.limit]
        if not fast and (high < len(path) or low == len(path) - 1):
            break
        step = fast[0] if fast else len(path) - 1
        took = measured(path[step])
        factor = took / told[step]
        low, high = (low, step) if took <= bound.limit else (step, high)
    if high == len(path):
        return None, path[-1]
    for _ in range(REPAIRS):
        gentler = knapsack.given_back(path[high], bound.limit / factor)
        took = measured(gentler)
        if took <= bound.limit:
            return gentler, path[-1]
        factor = took / knapsack.ms(gentler)
    return path[high], path[-1]


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

    def ms(self, counts: Counts, terms: list[Term] | None = None) -> float:
        """Return the time of counts: all of it, or of some terms."""
        return self.clock.ms(self.analysis.keep(removed_units(self.ranked, counts)), terms)

    def path(self) -> list[Counts]:
        """Return counts after every move that saves time, the one that loses least for it first, from none on."""
        path = [[0] * len(self.ranked)]
        best = {index: self._best_move(path[0], index) for index in range(len(self.ranked))}
        while min(price for price, _ in best.values()) < math.inf if best else False:
            index = min(best, key=lambda i: best[i][0])
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
        """Return counts with bundles given back while the clock holds the limit, the highest scores first."""
        left = limit - self.ms(counts)
        while True:
            best: tuple[float, int, int, float] | None = None
            for index, terms in enumerate(self.terms):
                now = self.ms(counts, terms)
                for before in map(int, self.stops[index][self.stops[index] < counts[index]]):
                    took = self.ms(_moved(counts, index, before), terms) - now
                    won = float(self.ranked[index].scores[before : counts[index]].sum())
                    if took <= left and won > 0 and (best is None or won > best[0]):
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
