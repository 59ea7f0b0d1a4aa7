"""The order in which groups shrink, and how far they may: every width on the way is one that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from paretune.prune._couplings.units import Axis
from paretune.prune._ranking import Ranked


@dataclass(frozen=True)
class Path:
    """The order in which groups shrink, one move after the other; each leaves a width that is allowed."""

    group: Axis
    before: Axis
    after: Axis
    """(moves,): which group moves, and how many bundles it has lost before and after the move."""
    gone: Axis
    total: Axis
    """(moves,): units that are gone after the move, and all there are: of all groups, or of the group's kind."""
    went: Axis
    """(moves,): units of them that went in earlier rounds."""
    groups: int

    def counts(self, moves: int) -> list[int]:
        """Return how many bundles each group has lost after the first `moves` moves."""
        lost = np.zeros(self.groups, np.int64)
        np.maximum.at(lost, self.group[:moves], self.after[:moves])
        return [int(count) for count in lost]


def path_of(ranked: list[Ranked], multiple: int, kind: list[int] | None) -> Path:
    """Return all moves, the lowest mean score first, of equal ones that of the group that lost least.

    In a group they keep their order.
    kind: the kind of every group; then moves of unlike kinds are put in the order of the part that their kind has
    lost, so that every beginning of the path takes the same part of each.
    """
    moves: list[tuple[float, float, int, int, int]] = []
    for index, r in enumerate(ranked):
        stops, worst = stops_of(r, multiple), -np.inf
        for before, after in pairwise(stops):
            worst = max(worst, float(r.scores[before:after].mean()))
            moves.append((worst, after / r.size, index, int(before), int(after)))
    moves.sort()
    columns = np.array([move[2:] for move in moves], np.int64).reshape(-1, 3)
    group, before, after = columns.T
    kinds = np.array(kind or [0] * len(ranked), np.int64)
    parts = np.array([r.bundles.shape[1] for r in ranked], np.int64)
    sizes = np.array([r.size * len(r.group.blocks) for r in ranked], np.int64)
    earlier = np.array([r.went * len(r.group.blocks) for r in ranked], np.int64)
    gone, total, went = (np.zeros(len(group), np.int64) for _ in range(3))
    for each in np.unique(kinds):
        mine = kinds[group] == each
        gone[mine] = np.cumsum(((after - before) * parts[group])[mine])
        total[mine], went[mine] = sizes[kinds == each].sum(), earlier[kinds == each].sum()
    order = np.argsort(gone / np.maximum(1, total), kind="stable")
    return Path(group[order], before[order], after[order], gone[order], total[order], went[order], len(ranked))


def stops_of(ranked: Ranked, multiple: int) -> Axis:
    """Return how many bundles a group may lose so that its width is a multiple; 0 is always allowed."""
    lost = np.arange(len(ranked.bundles) + 1)
    fits = (ranked.width - lost * ranked.step) % multiple == 0
    return np.union1d(lost[fits], [0])


def nearest_allowed(ranked: list[Ranked], counts: list[int], multiple: int) -> list[int]:
    """Move every count to the nearest that is allowed; ties keep more channels."""
    stops = [stops_of(r, multiple) for r in ranked]
    return [int(s[np.argmin(np.abs(s - count))]) for s, count in zip(stops, counts, strict=True)]


def given_back(path: Path, moves: int, enough: Callable[[list[int]], bool]) -> list[int]:
    """Undo moves, of every group the last first, where the target still holds without them.

    A move of a wide group can overshoot the target by far; what smaller groups lost before it may then stay.
    """
    counts = path.counts(moves)
    changed = True
    while changed:
        changed, seen = False, set[int]()
        for move in range(moves - 1, -1, -1):
            group = int(path.group[move])
            if group in seen or path.after[move] != counts[group]:
                continue
            seen.add(group)
            trial = [*counts[:group], int(path.before[move]), *counts[group + 1 :]]
            if enough(trial):
                counts, changed = trial, True
    return counts
