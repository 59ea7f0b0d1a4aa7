"""Repeats: where an objective is noisy, a configuration on the largest budget is run several times, each with a
seed of its own, and its mean is what is ranked.

Below the largest budget it is run once: what is chosen there is looked at again above, and of many runs that are
compared once the noise is paid for by all, while at the top it decides what is handed over. A configuration of
which one repeat fails has failed, and has no more of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import final

import numpy as np

from paretune.search._study.trial import LOST, Trial


@final
class Repeats:
    """Gathers the runs of configurations on the largest budget."""

    def __init__(self, count: int, top: int) -> None:
        """count: runs of each configuration at the rung `top`."""
        self.count, self.top = count, top
        self._ended: dict[int, dict[int, Trial]] = defaultdict(dict)
        self._whole: set[int] = set()

    def others(self, trial: Trial) -> list[Trial]:
        """Return the repeats that a first run is followed by."""
        count = self.count if trial.rung == self.top else 1
        return [replace(trial, repeat=repeat) for repeat in range(1, count)]

    def take(self, trial: Trial) -> Trial | None:
        """Take in a run that ended, and return what stands for its configuration: the run itself, the mean when it
        was the last of its repeats or one that failed, None while others are to come and after such a failure."""
        if trial.rung != self.top or self.count == 1:
            return trial
        ended, number = self._ended[trial.config_number], trial.config_number
        ended[trial.repeat] = trial
        if number in self._whole or not _is_whole(ended, self.count):
            return None
        self._whole.add(number)
        return mean_of(ended.values())

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return the repeats that were never begun, of stored runs; each configuration's first one is there."""
        trials = [trial for trial in trials if trial.rung == self.top]
        begun = {(trial.config_number, trial.repeat) for trial in trials}
        failed = {t.config_number for t in trials if t.error and not t.error.startswith(LOST)}
        return [
            replace(other, attempt=1, loss=None, seconds=0.0, values={}, error="", finished=None)
            for trial in trials
            if trial.repeat == 0
            for other in self.others(trial)
            if (other.config_number, other.repeat) not in begun and other.config_number not in failed
        ]


def wholes(trials: Iterable[Trial], count: int, top: int) -> list[Trial]:
    """Return what stands for every configuration and budget that ended: runs, and means where all repeats did.

    Where no configuration has all of its repeats yet, the means of what there is.
    """
    found: list[Trial] = []
    gathered: dict[int, dict[int, Trial]] = defaultdict(dict)
    for trial in trials:
        if trial.loss is None or trial.error.startswith(LOST):
            continue  # what was lost is run again
        if trial.rung != top or count == 1:
            found.append(trial)
        else:
            gathered[trial.config_number][trial.repeat] = trial  # a later attempt stands for an earlier one
    complete = [runs for runs in gathered.values() if _is_whole(runs, count)]
    return found + [mean_of(runs.values()) for runs in complete or gathered.values()]


def _is_whole(ended: Mapping[int, Trial], count: int) -> bool:
    """Tell whether a configuration needs no more repeats: it has all, or one failed, and it has with it."""
    return len(ended) == count or any(trial.error for trial in ended.values())


def mean_of(trials: Iterable[Trial]) -> Trial:
    """Return a run that stands for several of one configuration: the first one, with mean loss and values.

    Its seconds are those of all, its `stderr` is the standard error of the mean; with one that failed it failed.
    """
    first, *others = sorted(trials, key=lambda trial: trial.repeat)
    failed = next((trial for trial in (first, *others) if trial.error), None)
    seconds = sum(trial.seconds for trial in (first, *others))
    if failed is not None:
        return replace(first, loss=math.inf, seconds=seconds, error=failed.error)
    losses = np.array([trial.loss for trial in (first, *others)], dtype=float)
    names = [name for name in first.values if all(name in trial.values for trial in others)]
    return replace(
        first,
        loss=float(losses.mean()),
        seconds=seconds,
        values={name: float(np.mean([trial.values[name] for trial in (first, *others)])) for name in names},
        stderr=float(losses.std(ddof=1) / math.sqrt(len(losses))) if others else None,
    )


def seed_of(study: int, config: int, repeat: int) -> int:
    """Return the seed of a run: the same on every budget of a configuration, another for every repeat."""
    numbers = [study, config, repeat] if repeat else [study, config]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
