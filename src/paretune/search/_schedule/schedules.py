"""Schedules: which configuration runs next, and on which rung of the ladder.

`Hyperband` is the synchronous one: brackets of successive halving, each rung full before the next begins. The
next job is that of the oldest open bracket that has one; where all wait for runs under way, the next bracket is
opened, so that no worker is idle. `Halving` is the asynchronous one: a run goes on as soon as it is among the
best of its rung. `Flat` has one budget alone.

A schedule's state follows from what was begun and told, whatever the order in time; a study that goes on after a
crash tells it again what its trials say (`restore`).

Sources: Li et al., "Hyperband", JMLR 2018, arXiv:1603.06560, Algorithm 1; the order of brackets under several
workers: Falkner et al., arXiv:1807.01774, section 4.2; Li et al., "A system for massively parallel hyperparameter
tuning", MLSys 2020, arXiv:1810.05934, Algorithm 2; the delay of promotions: Li et al., "Hyper-Tune", VLDB 2022,
arXiv:2201.06834, section 4.3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import final

import numpy as np

from paretune.search._ranking import Score, ranked, succeeded
from paretune.search._schedule.ladder import Bracket, brackets
from paretune.search._schedule.trust import Trust


@final
@dataclass(frozen=True)
class Job:
    """What to run: a configuration, new where `config` is None, at a rung of the ladder."""

    rung: int
    bracket: int
    """Which bracket it belongs to: of the study, counted from 0, or of the plan where there are no rounds."""
    config: int | None = None
    """The number of a configuration that ran at a lower rung already."""


@final
@dataclass(frozen=True)
class Past:
    """A run of an earlier process: what it was, and its score; None where it must be done again."""

    config: int
    rung: int
    bracket: int
    loss: Score | None


Fits = Callable[[int, int | None], bool]
"""(rung, configuration, None for a new one) -> whether there is time for it."""


class NothingFits(Exception):
    """There is no time for any job."""


def always(rung: int, config: int | None) -> bool:
    """There is time for everything."""
    return True


class Schedule(ABC):
    """Hands out jobs, and is told how they ended."""

    @abstractmethod
    def next(self, fits: Fits = always) -> Job:
        """Return the next job that fits, which is under way from then on; `NothingFits` where none does.

        Where all fit there always is one.
        """

    @abstractmethod
    def tell(self, job: Job, config: int, loss: Score) -> None:
        """Note that a configuration's run at a job's rung ended; infinity where it failed."""

    @abstractmethod
    def restore(self, past: Iterable[Past]) -> None:
        """Take in the runs of an earlier process; those without a loss count as under way."""

    @abstractmethod
    def close(self, job: Job | None = None) -> None:
        """Hand out no new configurations from now on, there are none left; the best of those there are go on.

        job: the last one that was handed out, where no configuration was found for it.
        """


@final
class Flat(Schedule):
    """One budget: every job is a new configuration."""

    closed = False

    def next(self, fits: Fits = always) -> Job:
        """Return a new configuration's job."""
        if self.closed or not fits(0, None):
            raise NothingFits
        return Job(0, 0)

    def tell(self, job: Job, config: int, loss: Score) -> None:
        """Nothing follows from how a run ended."""

    def restore(self, past: Iterable[Past]) -> None:
        """Nothing follows from earlier runs."""

    def close(self, job: Job | None = None) -> None:
        """Hand out no jobs from now on."""
        self.closed = True


@final
@dataclass
class _Open:
    """A bracket under way."""

    bracket: Bracket
    step: int = 0
    started: int = 0
    """Jobs of this step that were handed out."""
    promoted: list[int] = field(default_factory=list)
    """Configurations of this step, from the second step on, the best first."""
    begun: set[int] = field(default_factory=set)
    """Those of them that were handed out."""
    results: list[tuple[Score, int]] = field(default_factory=list)
    """Score and configuration of this step's finished runs."""

    @property
    def size(self) -> int:
        return len(self.promoted) if self.step else self.bracket.sizes[0]

    @property
    def rung(self) -> int:
        return self.bracket.rungs[self.step]

    @property
    def due(self) -> int | None:
        return next((each for each in self.promoted if each not in self.begun), None)

    @property
    def done(self) -> bool:
        return self.step == len(self.bracket.sizes)

    def tell(self, config: int, loss: Score) -> None:
        self.results.append((loss, config))
        self.go_on()

    def shrink(self, eta: int) -> None:
        """Let the first step have no more configurations than it has, and those behind it as many fewer."""
        if self.step == 0 and self.started < self.size:
            sizes = tuple(max(1, self.started // eta**step) for step in range(len(self.bracket.sizes)))
            self.bracket = Bracket(self.bracket.rungs, sizes)
            self.go_on()

    def go_on(self) -> None:
        """Begin the next step where all of this one ended."""
        if self.done or not self.results or len(self.results) < self.size:
            return
        self.step += 1
        if not self.done:
            best = ranked(self.results)  # of equal ones the older goes on
            self.promoted = [number for _, number in best[: self.bracket.sizes[self.step]]]
        self.started, self.begun, self.results = 0, set(), []


@final
class Hyperband(Schedule):
    """The synchronous schedule over a ladder of `rungs` budgets."""

    def __init__(self, rungs: int, eta: int = 3, *, trusting: bool = True) -> None:
        """trusting: begin brackets on budgets whose order was found to mislead (`Trust`), too."""
        self.eta, self.plan = eta, brackets(rungs, eta)
        self._open: list[_Open] = []
        self._closed = False
        self._trust = None if trusting else Trust(rungs)

    def next(self, fits: Fits = always) -> Job:
        """Return the next job of the oldest bracket that has one, or of a new bracket, one that fits."""
        lowest = 0 if self._trust is None else self._trust.lowest
        for number, each in enumerate(self._open):
            begun = each.step or each.started or (each.bracket.rungs[0] >= lowest and not self._closed)
            if begun and not each.done and each.started < each.size and fits(each.rung, each.due):
                return self._start(number, each)
        for number in range(len(self._open), len(self._open) + len(self.plan) * (not self._closed)):
            first = self.plan[number % len(self.plan)].rungs[0]
            if first >= lowest and fits(first, None):
                return self._start(number, self._at(number))
        raise NothingFits

    def tell(self, job: Job, config: int, loss: Score) -> None:
        """Note a result; the last of a rung promotes its best."""
        self._open[job.bracket].tell(config, loss if succeeded(loss) else np.inf)
        if self._trust is not None:
            self._trust.tell(job.rung, config, loss)

    def restore(self, past: Iterable[Past]) -> None:
        """Take in earlier runs, rung by rung of each bracket."""
        for run in sorted(past, key=lambda run: (run.bracket, run.rung, run.config)):
            each = self._at(run.bracket)
            if not each.done and run.rung > each.rung:  # it was closed before all that it was to have were begun
                each.shrink(self.eta)
            each.started += 1
            each.begun.add(run.config)
            if run.loss is not None:
                self.tell(Job(run.rung, run.bracket), run.config, run.loss)

    def close(self, job: Job | None = None) -> None:
        """Open no brackets from now on, and fill none."""
        self._closed = True
        if job is not None:
            self._open[job.bracket].started -= 1
        for each in self._open:
            if each.started:
                each.shrink(self.eta)

    def _at(self, number: int) -> _Open:
        while len(self._open) <= number:
            self._open.append(_Open(self.plan[len(self._open) % len(self.plan)]))
        return self._open[number]

    def _start(self, number: int, each: _Open) -> Job:
        config = each.due
        each.started += 1
        each.begun |= {config} if config is not None else set()
        return Job(each.rung, number, config)


@final
class Halving(Schedule):
    """The asynchronous schedule: a run goes on as soon as it is among the best of its rung and the next is due
    one.

    New configurations start at the rungs that Hyperband's brackets would start them at, in the same shares. One is
    promoted where it is in the top 1/eta of what its rung holds, and only while the next rung has been given less
    than 1/eta of this one, so that early results do not send poor ones up.

    most: use only the first so many brackets; 1 starts every configuration at the lowest rung, as ASHA does.
    trusting: start at rungs whose order was found to mislead (`Trust`), too.
    """

    def __init__(self, rungs: int, eta: int = 3, *, most: int | None = None, trusting: bool = True) -> None:
        self.eta = eta
        self._trust = None if trusting else Trust(rungs)
        self.plan = brackets(rungs, eta)[:most]
        self._results: list[list[tuple[Score, int]]] = [[] for _ in range(rungs)]
        self._gone: list[set[int]] = [set() for _ in range(rungs)]
        """Configurations promoted out of each rung."""
        self._started = [0] * len(self.plan)
        self._closed = False

    def next(self, fits: Fits = always) -> Job:
        """Return a promotion, from the highest rung down, or a new configuration, one that fits."""
        for rung in reversed(range(len(self._results) - 1)):
            if (config := self._due(rung, fits)) is not None:
                self._gone[rung].add(config)
                return Job(rung + 1, 0, config)
        shares = [count / bracket.sizes[0] for count, bracket in zip(self._started, self.plan, strict=True)]
        if self._closed:
            raise NothingFits
        lowest = 0 if self._trust is None else min(self._trust.lowest, self.plan[-1].rungs[0])
        for number in map(int, np.argsort(shares, kind="stable")):
            if self.plan[number].rungs[0] >= lowest and fits(self.plan[number].rungs[0], None):
                self._started[number] += 1
                return Job(self.plan[number].rungs[0], number)
        raise NothingFits

    def tell(self, job: Job, config: int, loss: Score) -> None:
        """Note that a run ended."""
        self._results[job.rung].append((loss if succeeded(loss) else np.inf, config))
        if self._trust is not None:
            self._trust.tell(job.rung, config, loss)

    def restore(self, past: Iterable[Past]) -> None:
        """Take in earlier runs, the lower rungs first."""
        seen: set[int] = set()
        for run in sorted(past, key=lambda run: (run.rung, run.config)):
            if run.config in seen:
                self._gone[run.rung - 1].add(run.config)
            else:
                self._started[run.bracket % len(self.plan)] += 1  # Hyperband counts its brackets on
            seen.add(run.config)
            if run.loss is not None:
                self.tell(Job(run.rung, run.bracket), run.config, run.loss)

    def close(self, job: Job | None = None) -> None:
        """Begin nothing new from now on; of each rung one goes on at least."""
        self._closed = True

    def _due(self, rung: int, fits: Fits) -> int | None:
        top = max(len(self._results[rung]) // self.eta, int(self._closed))
        if len(self._gone[rung]) >= top:
            return None
        for loss, config in ranked(self._results[rung])[:top]:
            if config not in self._gone[rung] and succeeded(loss) and fits(rung + 1, config):
                return config
        return None
