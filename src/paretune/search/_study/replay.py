"""Replay: whether every suggestion of a stored study comes out again, bit for bit, from what is stored.

A suggestion follows from the study's seed, its own number, the configurations before it, the results that it
had seen and the runs that were under way. Each run says how many results its suggestion had seen; which ones, the
order in which runs ended says. What was under way follows: a run that began earlier, whose result had not been
seen and which was not lost and begun again. Several workers, failures and crashes change nothing of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.search._schedule.schedules import Job
from paretune.search._space.space import Config, Space, key
from paretune.search._study.events import Events
from paretune.search._study.executors import Executor, Lost
from paretune.search._study.executors import Job as Work
from paretune.search._study.limits import Limits
from paretune.search._study.method import Method, method_of
from paretune.search._study.objective import Outcome
from paretune.search._study.opening import plan_of
from paretune.search._study.plain import space_from_json
from paretune.search._study.repeats import Repeats
from paretune.search._study.storage import Store
from paretune.search._study.study import ATTEMPTS, Search, place_of
from paretune.search._study.suggestions import Suggested
from paretune.search._study.trial import LOST, TAKEN, Trial
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
    return replayed(trials, plan, sampler.seeded(plan["seed"]))


def replayed(trials: Sequence[Trial], plan: Mapping[str, Any], sampler: Sampler) -> Replay:
    """Make the suggestions of these runs again.

    trials: all of a study, in the order of their numbers. plan: what defines it, as `plan_to_json` returns it.

    A study is set up that runs nothing, and its own steps are called: what is done here cannot drift from it.
    """
    space, store = space_from_json(plan["space"]), Store(None, "replay", dict(plan), resume=False)
    study = Search(
        _Nobody(), space, sampler, Limits(), store, plan["seed"], None, Events(), plan.get("repeats", 1)
    )
    ended = in_order(trials)
    found, count, place = list(_promoted(trials)), 0, 0
    for trial, pending in _suggestions(trials, _places(ended, Repeats(study.repeats.count, study.repeats.top))):
        known = len(study.configs)
        for _ in range(trial.config_number - known):
            study.configs.add(Suggested(np.full(len(space), np.nan), {}, "", 0))
        while (
            len(study.results) < trial.seen
            and place < len(ended)
            and ended[place].config_number < trial.config_number  # else it is of the future, and was changed
        ):
            study._take(ended[place])
            place += 1
        why = _missing(trial, known, len(study.results))
        again: Config | None = trial.config if trial.origin == TAKEN else None
        if not why and again is None:
            study.trials |= {each.number: each for each in pending}
            study.running = {each.number: Job(each.rung, each.bracket) for each in pending}
            try:
                again = study._suggest(trial.turn).config
            except Exhausted as error:
                why = str(error)
        if again is None or key(again) != key(trial.config):
            found.append(Difference(trial.config_number, trial.number, trial.config, again, why or CHANGED))
        study.configs.add(Suggested(_row(space, trial.config), trial.config, trial.origin, trial.seen))
        count += trial.origin != TAKEN
    return Replay(count, tuple(sorted(found, key=lambda each: (each.number, each.run))))


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
    last = {place_of(trial): trial for trial in trials}
    ended = [
        trial
        for trial in last.values()
        if trial.finished is not None and not (trial.error.startswith(LOST) and trial.attempt < ATTEMPTS)
    ]
    return sorted(ended, key=lambda trial: (trial.finished, trial.number))


def _places(ended: Sequence[Trial], repeats: Repeats) -> dict[int, int]:
    """Return how many results there were before each run ended, by its number; a repeat that is not the last of
    its configuration makes none."""
    found, results = {}, 0
    for trial in ended:
        found[trial.number] = results
        results += repeats.take(trial) is not None
    return found


def _suggestions(trials: Sequence[Trial], place: Mapping[int, int]) -> Iterator[tuple[Trial, list[Trial]]]:
    """Yield the first run of each configuration, and the runs that were under way when it was suggested.

    place: as `_places` returns it.
    """
    last: dict[tuple[int, int, int], int] = {}
    again: dict[int, int] = {}  # the run that stands for one that was lost
    for trial in trials:
        what = place_of(trial)
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


def _row(space: Space, config: Config) -> Any:
    """Return a configuration's row; one that is none of the space (it was changed) tells nothing."""
    try:
        return space.row(config)
    except InputError:
        return np.full(len(space), np.nan)


@final
class _Nobody(Executor):
    """Runs nothing."""

    slots = 1

    def start(self, job: Work) -> None:
        """Nothing is started."""
        raise AssertionError("a replay runs nothing")

    def wait(self) -> list[tuple[int, Outcome | Lost]]:
        """Nothing has ended."""
        return []

    def stop(self) -> None:
        """There is nothing to stop."""
