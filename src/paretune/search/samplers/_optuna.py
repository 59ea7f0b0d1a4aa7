"""Any sampler of Optuna, on the full budget: by its name and settings, or as an object.

`method="optuna.NSGAIISampler"`, `method={"optuna": {"sampler": "QMCSampler", "settings": {"scramble": True}}}`, or
`method=optuna.samplers.QMCSampler(seed=1)`. Priors are left aside, as Optuna knows none.

Such a sampler may keep a state of its own, so it is asked and told in an Optuna study that is kept from one
suggestion to the next. A study that is opened again asks it once more for every past run: with a seed, and with
one worker, it gives the same answers, and its state is what it was. An answer that differs (several workers, a
sampler object without a seed) is thrown away and the past run is told in its place; the study then goes on from
the same results, but not with the same draws as an undisturbed one.

Source: Akiba et al., "Optuna: a next-generation hyperparameter optimization framework", KDD 2019,
    arXiv:1907.10902.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np

from paretune.errors import InputError, check_choice, nearest
from paretune.search._optuna import Seen, quiet
from paretune.search._results import Results
from paretune.search._space.space import Config, Space, key
from paretune.search.samplers._base import OneBudget, Suggestion

TRIES = 100
"""Suggestions that a rule forbids, or that were made before, are asked for anew so often."""

RANKED = ("CmaEsSampler",)
"""Samplers of one objective alone, which are told how runs of several rank."""


@final
@dataclass(frozen=True, kw_only=True)
class Optuna(OneBudget):
    """Ask a sampler of Optuna."""

    name: ClassVar[str] = "optuna"

    sampler: str = "TPESampler"
    """A class of `optuna.samplers`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments; without `seed` it has the study's."""
    given: bool = False
    """Whether it was given as an object, which is not stored: a study that goes on needs it again."""
    _object: Any = field(default=None, init=False, repr=False, compare=False)
    _seed: int = field(default=0, init=False, repr=False, compare=False)
    _kept: Any = field(default_factory=list, init=False, repr=False, compare=False)
    """The sampler under way (`_Asked`) of the last suggestion."""

    def __post_init__(self) -> None:
        if not self.given:
            self._made()

    @classmethod
    def of(cls, sampler: Any) -> Optuna:
        """Return the one that asks a sampler object, a copy of it."""
        found = cls(sampler=type(sampler).__name__, given=True)
        object.__setattr__(found, "_object", sampler)
        return found

    def seeded(self, seed: int) -> Optuna:
        """Return the same for a study's seed."""
        found = replace(self)
        object.__setattr__(found, "_seed", seed)
        object.__setattr__(found, "_object", self._object)
        found._made()
        return found

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return what Optuna's sampler asks for."""
        with quiet():
            if not self._kept or not self._kept[0].seen.precedes(space, results):
                ranks = self.sampler in RANKED
                self._kept[:] = [_Asked(Seen(space, self._made(), results, ranks=ranks))]
            (asked,) = self._kept
            asked.take(results)
            config = asked.suggestion(number, results)
        return Suggestion(space.row(config), config, "model")

    def _made(self) -> Any:
        """Return a fresh sampler."""
        if self._object is not None:
            return copy.deepcopy(self._object)
        if self.given:
            raise InputError(
                f"optuna: the study was begun with a sampler object, which is not stored; give it again: "
                f"minimize(..., method=optuna.samplers.{self.sampler}(...))"
            )
        kind = _named(self.sampler)
        known = inspect.signature(kind).parameters
        for name in self.settings:
            if name not in known:
                raise InputError(
                    f"optuna: {self.sampler} has no setting '{name}'.{nearest(str(name), known)} It has "
                    f"{', '.join(known)}"
                )
        seed = {"seed": self._seed} if "seed" in known else {}
        try:
            with quiet():
                return kind(**seed | dict(self.settings))
        except (TypeError, ValueError, ImportError) as error:
            raise InputError(f"optuna: {self.sampler}: {error}") from error


def _named(name: str) -> Any:
    """Return the class of that name in `optuna.samplers`."""
    import optuna

    kinds = {
        each: kind
        for each in optuna.samplers.__all__
        if inspect.isclass(kind := getattr(optuna.samplers, each)) and not each.startswith("Base")
    }
    check_choice("optuna: sampler", name, kinds)
    return kinds[name]


@final
class _Asked:
    """A sampler of Optuna under way: its study, and what it suggested."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self._open: dict[str, Any] = {}
        """Trials that were suggested and not told, by their configuration."""
        self._past: set[str] = set()
        """Configurations that were told."""
        self._made: dict[int, tuple[int, Config]] = {}
        """How many results there were, and what was suggested, by the number of the suggestion."""

    def take(self, results: Results) -> None:
        """Tell Optuna of what is new; what it was not asked for in this process it is asked for now."""
        running = {key(self.seen.space.config(row)) for row in results.pending}
        for row, score in self.seen.new(results):
            config = self.seen.space.config(row)
            left = [each for each in self._open if each not in running]
            if key(config) not in self._open and not left:
                self._ask()
            trial = self._open.pop(key(config), None)
            if trial is None:  # another answer than the one that was run
                for each in [each for each in self._open if each not in running]:
                    self.seen.tell(self._open.pop(each), None)
                trial, _ = self.seen.ask(config)
            self._past.add(key(config))
            self.seen.tell(trial, score)

    def suggestion(self, number: int, results: Results) -> Config:
        """Return the suggestion of a number; the same results get the same one."""
        count, config = self._made.get(number, (-1, Config()))
        if count != len(results):
            config = self._ask()
            self._made[number] = (len(results), config)
        return config

    def _ask(self) -> Config:
        """Return a new configuration that no rule forbids, or after many tries one that is not new."""
        space = self.seen.space
        for left in reversed(range(TRIES)):
            trial, config = self.seen.ask()
            name = key(config)
            if space.allowed(config) and name not in self._open and (name not in self._past or not left):
                self._open[name] = trial
                return config
            self.seen.tell(trial, None)
        return next(space.draws(lambda n: np.random.default_rng(len(self._past)).random((n, len(space)))))[1]
