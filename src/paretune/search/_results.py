"""Results as arrays: what samplers and schedulers know of the runs so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from paretune.search._ranking import Point, Score, arrays, order, succeeded

Array = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Results:
    """Finished runs, one row each, in the order in which they ended.

    rows: (n, parameters), configurations as numbers in [0, 1], NaN where not active.
    losses: (n,), the lower the better; infinity where a run failed. With several objectives or constraints, ranks
        among the runs of the same rung.
    rungs: (n,) int, which budget of the ladder each run had.
    pending: (m, parameters), configurations that run now.
    values: (n, objectives), the lower the better, and violations: (n,), for samplers that can do more with them
        than with ranks; None where the loss alone counts.
    seconds: (n,), what each run took, NaN where it failed; workers: (n,) int, who ran it; None where not known.
    """

    rows: Array
    losses: Array
    rungs: NDArray[np.int64]
    pending: Array
    seconds: Array | None = None
    workers: NDArray[np.int64] | None = None
    values: Array | None = None
    violations: Array | None = None

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def scores(self) -> Array:
        """What runs were judged by: objectives and violation, (n, objectives + 1), or the loss, (n, 1)."""
        if self.values is None or self.violations is None:
            return self.losses[:, None]
        return np.column_stack([self.values, self.violations])

    def at(self, rung: int) -> tuple[Array, Array]:
        """Return rows and losses of one rung."""
        chosen = self.rungs == rung
        return self.rows[chosen], self.losses[chosen]


@final
class Growing:
    """Results that grow by a row at a time, in arrays that double."""

    def __init__(self, parameters: int, objectives: int = 0) -> None:
        """Begin. objectives: of the points that are added; 0 where losses are."""
        self._objectives = objectives
        self._rows = np.empty((16, parameters))
        self._losses = np.empty(16)
        self._rungs = np.empty(16, dtype=np.int64)
        self._seconds = np.empty(16)
        self._workers = np.empty(16, dtype=np.int64)
        self._count = 0
        self._points: list[Point] = []
        """Scores of all runs, where losses alone do not rank them."""
        self._stale: set[int] = set()
        """Rungs whose ranks are to be made anew."""

    def __len__(self) -> int:
        return self._count

    def add(self, row: Array, loss: Score, rung: int, seconds: float = np.nan, worker: int = 0) -> None:
        """Add a finished run; a score that is not finite counts as a failure, whose time tells nothing."""
        if self._count == len(self._losses):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._losses = np.concatenate([self._losses, np.empty_like(self._losses)])
            self._rungs = np.concatenate([self._rungs, np.empty_like(self._rungs)])
            self._seconds = np.concatenate([self._seconds, np.empty_like(self._seconds)])
            self._workers = np.concatenate([self._workers, np.empty_like(self._workers)])
        self._rows[self._count] = row
        if isinstance(loss, Point):
            self._points.append(loss)
            self._stale.add(rung)
            loss = 0.0 if succeeded(loss) else np.inf
        self._losses[self._count] = loss if np.isfinite(loss) else np.inf
        self._rungs[self._count] = rung
        self._seconds[self._count] = seconds if np.isfinite(loss) else np.nan
        self._workers[self._count] = worker
        self._count += 1

    def results(self, pending: Array | None = None) -> Results:
        """Return what there is, as views that later additions do not change."""
        n = self._count
        waiting = np.empty((0, self._rows.shape[1])) if pending is None else pending
        rows, rungs, times = self._rows[:n], self._rungs[:n], (self._seconds[:n], self._workers[:n])
        if not self._points:
            none = (np.empty((0, self._objectives)), np.empty(0)) if self._objectives else (None, None)
            return Results(rows, self._losses[:n], rungs, waiting, *times, *none)
        values, violations = arrays(self._points)
        losses = self._losses[:n].copy()  # ranks change, and views must not
        for rung in self._stale:
            losses[rungs == rung] = order(values[rungs == rung], violations[rungs == rung])
        self._losses[:n], self._stale = losses, set()
        return Results(rows, losses, rungs, waiting, *times, values, violations)
