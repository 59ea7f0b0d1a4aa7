"""Hyperband's schedule: brackets of successive halving, one after the other, each rung full before the next
begins.

The next job is that of the oldest open bracket that has one; where all wait for runs under way, the next bracket
is opened, so that no worker is idle. Deterministic in what was asked and told, which is how a study goes on
after a
crash: its trials are asked and told again.

Source: Li et al., arXiv:1603.06560; the order of brackets under several workers: Falkner et al.,
arXiv:1807.01774, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from paretune.search._schedule.ladder import Bracket, brackets


@final
@dataclass(frozen=True)
class Job:
    """What to run: a configuration, new where `config` is None, at a rung of the ladder."""

    rung: int
    bracket: int
    """Which bracket of the study it belongs to, counted from 0."""
    config: int | None = None
    """The number of a configuration that ran at a lower rung already."""


@final
@dataclass
class _Open:
    """A bracket under way."""

    bracket: Bracket
    step: int = 0
    started: int = 0
    """Jobs of this step that were handed out."""
    promoted: list[int] = field(default_factory=list)
    """Configurations of this step, from the second step on."""
    results: list[tuple[float, int]] = field(default_factory=list)
    """Loss and configuration of this step's finished runs."""

    @property
    def size(self) -> int:
        return self.bracket.sizes[self.step] if self.step == 0 else len(self.promoted)

    @property
    def done(self) -> bool:
        return self.step == len(self.bracket.sizes)


@final
class Hyperband:
    """The synchronous schedule over a ladder of `rungs` budgets."""

    def __init__(self, rungs: int, eta: int = 3) -> None:
        self.plan = brackets(rungs, eta)
        self._open: list[_Open] = []

    def next(self) -> Job:
        """Return the next job; there always is one."""
        for number, each in enumerate(self._open):
            if not each.done and each.started < each.size:
                return self._start(number, each)
        self._open.append(_Open(self.plan[len(self._open) % len(self.plan)]))
        return self._start(len(self._open) - 1, self._open[-1])

    def tell(self, job: Job, config: int, loss: float) -> None:
        """Note that a configuration's run at a job's rung ended; infinity where it failed."""
        each = self._open[job.bracket]
        each.results.append((loss, config))
        if len(each.results) < each.size:
            return
        each.step += 1
        if not each.done:
            best = sorted(each.results, key=lambda result: (not np.isfinite(result[0]), result[0]))
            each.promoted = [number for _, number in best[: each.bracket.sizes[each.step]]]
        each.started, each.results = 0, []

    def _start(self, number: int, each: _Open) -> Job:
        config = each.promoted[each.started] if each.step else None
        each.started += 1
        return Job(each.bracket.rungs[each.step], number, config)


@final
class Halving:
    """The asynchronous schedule: a run goes on as soon as it is among the best of its rung and the next is due
    one.

    New configurations start at the rungs that Hyperband's brackets would start them at, in the same shares. One
    is promoted where it is in the top 1/eta of what its rung holds, and only while the next rung holds less than
    1/eta of this one, so that early results do not send poor ones up.

    Sources: Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020, arXiv:1810.05934,
    Algorithm 2; the delay: Li et al., "Hyper-Tune", VLDB 2022, arXiv:2201.06834, section 4.3.
    """

    def __init__(self, rungs: int, eta: int = 3, *, brackets_used: int | None = None) -> None:
        self.eta = eta
        self.plan = brackets(rungs, eta)[:brackets_used]
        self._results: list[list[tuple[float, int]]] = [[] for _ in range(rungs)]
        self._arrived: list[int] = [0] * rungs
        """Runs handed out at each rung that came from the rung below."""
        self._gone: list[set[int]] = [set() for _ in range(rungs)]
        """Configurations promoted out of each rung."""
        self._started = [0] * len(self.plan)

    def next(self) -> Job:
        """Return a promotion, from the highest rung down, or a new configuration."""
        for rung in reversed(range(len(self._results) - 1)):
            if (config := self._due(rung)) is not None:
                self._gone[rung].add(config)
                self._arrived[rung + 1] += 1
                return Job(rung + 1, 0, config)
        shares = [count / bracket.sizes[0] for count, bracket in zip(self._started, self.plan, strict=True)]
        number = int(np.argmin(shares))
        self._started[number] += 1
        return Job(self.plan[number].rungs[0], number)

    def tell(self, job: Job, config: int, loss: float) -> None:
        """Note that a run ended."""
        self._results[job.rung].append((loss if np.isfinite(loss) else np.inf, config))

    def _due(self, rung: int) -> int | None:
        held = self._results[rung]
        top = len(held) // self.eta
        if self._arrived[rung + 1] >= top:
            return None
        for loss, config in sorted(held)[:top]:
            if config not in self._gone[rung] and np.isfinite(loss):
                return config
        return None
