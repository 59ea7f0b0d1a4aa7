"""Replay: whether every suggestion of a stored study comes out again, bit for bit, from what is stored.

A suggestion follows from the study's seed, its own number, the configurations before it, the results that it
had seen and the runs that were under way. Each run says how many results its suggestion had seen; which ones, the
order in which runs ended says. What was under way follows: a run that began earlier, whose result had not been
seen and which was not lost and begun again. Several workers, failures and crashes change nothing of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.search._results import Growing
from paretune.search._space.space import Config, Space, key
from paretune.search._study.method import Method, method_of
from paretune.search._study.plain import space_from_json
from paretune.search._study.storage import LOST, Store, Trial, plan_of
from paretune.search._study.study import ATTEMPTS
from paretune.search._study.suggest import suggest
from paretune.search.samplers._base import Exhausted, Sampler

CHANGED = "another configuration"


@final
@dataclass(frozen=True)
class Difference:
    """A suggestion that did not come out again."""

    number: int
    """Of the configuration."""
    run: int
    """The first run of it."""
    stored: Config
    replayed: Config | None
    """None where nothing could be suggested; `why` says what is missing."""
    why: str


@final
@dataclass(frozen=True)
class Replay:
    """What replaying a study found."""

    suggestions: int
    """How many were made again."""
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether all of them came out as they are stored."""
        return not self.differences


def replay(storage: str, *, name: str = "study", method: Method | None = None) -> Replay:
    """Make every suggestion of a stored study again, and compare; nothing is run, and nothing is changed.

    storage: an Optuna URL. method: as `minimize` took it, where it was an object that only the caller can make.
    A study that is not there is an InputError.
    """
    plan = plan_of(storage, name)
    sampler = method_of(plan["method"] if method is None else method)
    trials = Store(storage, name, plan, resume=True).read()
    return replayed(trials, space_from_json(plan["space"]), sampler, plan["seed"])


def replayed(trials: Sequence[Trial], space: Space, sampler: Sampler, seed: int) -> Replay:
    """Make the suggestions of these runs again. trials: all of a study, in the order of their numbers."""
    ended, results, rows = in_order(trials), Growing(len(space)), _Rows(space)
    known: set[str] = set()
    found = list(_promoted(trials))
    for trial, pending in _suggestions(trials, ended):
        for past in ended[len(results) : trial.seen]:
            assert past.loss is not None
            results.add(rows.of(past.config), past.loss, past.rung)
        under_way = np.array([rows.of(each.config) for each in pending]).reshape(-1, len(space))
        why = _missing(trial, len(known), len(results))
        again: Config | None = None
        try:
            if not why:
                again = suggest(
                    sampler, space, results.results(under_way), known, seed, trial.config_number
                ).config
        except Exhausted as error:
            why = str(error)
        if again is None or key(again) != key(trial.config):
            found.append(Difference(trial.config_number, trial.number, trial.config, again, why or CHANGED))
        known.add(key(trial.config))
    return Replay(len(known), tuple(sorted(found, key=lambda each: (each.number, each.run))))


def _missing(trial: Trial, known: int, results: int) -> str:
    """Return what is not stored of what a suggestion followed from; nothing where all is."""
    if trial.config_number != known:
        return f"{known} configurations before it are stored, and it was number {trial.config_number}"
    if results < trial.seen:
        return f"it had seen {trial.seen} results, of which {results} are stored"
    return ""


def in_order(trials: Sequence[Trial]) -> list[Trial]:
    """Return the runs that a study knows the results of, in the order in which they ended.

    A later attempt stands for an earlier one; what was lost and will be begun again is none.
    """
    last = {(trial.config_number, trial.rung): trial for trial in trials}
    ended = [
        trial
        for trial in last.values()
        if trial.finished is not None and not (trial.error.startswith(LOST) and trial.attempt < ATTEMPTS)
    ]
    return sorted(ended, key=lambda trial: (trial.finished, trial.number))


def _suggestions(trials: Sequence[Trial], ended: Sequence[Trial]) -> Iterator[tuple[Trial, list[Trial]]]:
    """Yield the first run of each configuration, and the runs that were under way when it was suggested."""
    place = {trial.number: index for index, trial in enumerate(ended)}
    last: dict[tuple[int, int], int] = {}
    again: dict[int, int] = {}  # the run that stands for one that was lost
    for trial in trials:
        what = trial.config_number, trial.rung
        if what in last:
            again[last[what]] = trial.number
        last[what] = trial.number
    open_: list[Trial] = []
    numbers: set[int] = set()
    for trial in trials:
        if trial.config_number not in numbers:
            numbers.add(trial.config_number)
            open_ = [
                each
                for each in open_
                if place.get(each.number, math.inf) >= trial.seen
                and again.get(each.number, math.inf) > trial.number
            ]
            yield trial, list(open_)
        open_.append(trial)


def _promoted(trials: Sequence[Trial]) -> Iterator[Difference]:
    """Yield the later runs of configurations that are not what the first one was."""
    first: dict[int, Trial] = {}
    for trial in trials:
        stored = first.setdefault(trial.config_number, trial)
        if key(stored.config) != key(trial.config):
            why = f"run {trial.number} goes on with another configuration than run {stored.number}"
            yield Difference(trial.config_number, trial.number, trial.config, stored.config, why)


@final
class _Rows:
    """Rows of configurations; one that is none of the space (it was changed) tells nothing."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._known: dict[str, Any] = {}

    def of(self, config: Config) -> Any:
        """Return the row."""
        text = key(config)
        if text not in self._known:
            try:
                self._known[text] = self._space.row(config)
            except InputError:
                self._known[text] = np.full(len(self._space), np.nan)
        return self._known[text]
