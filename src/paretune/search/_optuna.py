"""What paretune's parameters and results are to Optuna, of which only public arguments and methods are used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.search._results import Array, Results
from paretune.search._space.parameters import Constant, Float, Int, Ordered, Parameter
from paretune.search._space.space import Config, Space

EXCESS = "excess"
"""The constraint of a study in memory."""


def distribution_of(parameter: Parameter) -> Any:
    """Return the distribution of a parameter that is searched over; priors are not part of it."""
    from optuna import distributions

    if isinstance(parameter, Float):
        return _float_distribution(parameter)
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return distributions.CategoricalDistribution([stored_value(value) for value in parameter.values()])


def stored_value(value: Any) -> Any:
    """Return a value as Optuna keeps it: lists and mappings, which it knows none of, as their JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


NAMING = ("GridSampler", "PartialFixedSampler")
"""Samplers whose settings name values of parameters."""


def _float_distribution(parameter: Float) -> Any:
    """Return a number's distribution; a step that Optuna, in its decimals, finds too long for the range goes."""
    from optuna import distributions

    ends = parameter.low, parameter.high
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = distributions.FloatDistribution(*ends, log=parameter.log, step=parameter.step)
    return found if found.high == parameter.high else distributions.FloatDistribution(*ends)


@final
class Seen:
    """An Optuna study in memory that has seen results, in their order.

    To be told of a run costs Optuna a copy of all it knows of it: a study that is kept, and told only what is new,
    takes a suggestion in a time that does not grow with the square of the runs.

    ranks: tell a sampler of one objective alone how runs of several rank; they change, and a study that has seen
    others is made anew. Else it is told all objectives and the violation of the constraints.
    """

    def __init__(self, space: Space, sampler: Any, results: Results, *, ranks: bool = False) -> None:
        import optuna

        self._optuna, self.space, self._ranks = optuna, space, ranks or results.values is None
        count = 1 if self._ranks or results.values is None else results.values.shape[1]
        with quiet():
            self.study: Any = optuna.create_study(sampler=sampler, directions=["minimize"] * count)
        named = type(sampler).__name__ in NAMING
        self._places = {
            name: parameter.values()
            for name, parameter in space.parameters.items()
            if isinstance(parameter, Ordered) and not named
        }
        """Ordered values are places to Optuna's models, which are numbers: neighbours are alike."""
        self._known = {name: self._distribution(name) for name in space.names if _is_searched(space, name)}
        self._rows: list[Array] = []
        self._scores: list[Array] = []

    def new(self, results: Results) -> Iterator[tuple[Array, Array]]:
        """Yield the rows and scores that were not seen; the caller tells Optuna of each."""
        n = len(self._rows)
        for row, score in zip(results.rows[n:], self._of(results)[n:], strict=True):
            self._rows.append(row.copy())
            self._scores.append(score.copy())
            yield row, score

    def precedes(self, space: Space, results: Results) -> bool:
        """Tell whether what was seen is what these results begin with, of the same space."""
        n = len(self._rows)
        scores = self._of(results)
        return (
            space is self.space
            and n <= len(results)
            and np.array_equal(np.reshape(self._scores, (n, scores.shape[1])), scores[:n])
            and np.array_equal(np.reshape(self._rows, (n, len(space))), results.rows[:n], equal_nan=True)
        )

    def add(self, row: Array, score: Array | None) -> None:
        """Add a run that Optuna did not suggest; None: it is under way."""
        states = self._optuna.trial.TrialState
        params = self._params(self.space.config(row))
        values, excess = (None, 0.0) if score is None else self._told(score)
        trial = self._optuna.trial.create_trial(
            params=params,
            distributions={name: self._known[name] for name in params},
            state=states.RUNNING if score is None else states.FAIL if values is None else states.COMPLETE,
            values=values,
        )
        if values is not None and not self._ranks:
            trial.set_constraint(EXCESS, excess)
        self.study.add_trial(trial)

    def _of(self, results: Results) -> Array:
        return results.losses[:, None] if self._ranks else results.scores

    def _told(self, score: Array) -> tuple[list[float] | None, float]:
        """Return the objectives, None where the run failed, and by how much constraints are missed."""
        values = score if self._ranks else score[:-1]
        return (values.tolist() if np.isfinite(values).all() else None), 0.0 if self._ranks else float(score[-1])

    def _distribution(self, name: str) -> Any:
        from optuna import distributions

        if name in self._places:
            return distributions.IntDistribution(0, len(self._places[name]) - 1)
        return distribution_of(self.space[name])

    def _params(self, config: Config) -> dict[str, Any]:
        """Return the values of a configuration as Optuna sees them."""
        return {
            name: self._places[name].index(value) if name in self._places else stored_value(value)
            for name, value in config.items()
            if name in self._known
        }

    def _suggested(self, trial: Any, name: str) -> Any:
        """Return what a sampler suggests for a parameter, as one of its values."""
        parameter = self.space[name]
        if isinstance(parameter, Constant):
            return parameter.value
        known = self._known[name]
        if name in self._places:
            return self._places[name][trial.suggest_int(name, known.low, known.high)]
        if isinstance(parameter, Float | Int):
            suggest = trial.suggest_float if isinstance(parameter, Float) else trial.suggest_int
            return parameter.nearest(suggest(name, known.low, known.high, log=known.log, step=known.step))
        texts = [stored_value(value) for value in parameter.values()]
        return parameter.values()[texts.index(trial.suggest_categorical(name, texts))]

    def forget(self) -> None:
        """Take back all that is under way."""
        states = self._optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study.tell(trial.number, state=states.FAIL)

    def ask(self, fixed: Config | None = None) -> tuple[Any, Config]:
        """Return a trial and what Optuna suggests for it, parameter by parameter, those that are active.

        fixed: a configuration that it takes instead.
        """
        space, config = self.space, Config()
        try:
            if fixed is not None:
                self.study.enqueue_trial(self._params(fixed))
            trial = self.study.ask()
            for name in space.names:
                parameter = space[name]
                if parameter.when is not None and not parameter.when(config):
                    continue
                config[name] = self._suggested(trial, name)
        except ValueError as error:
            raise InputError(f"{type(self.study.sampler).__name__} of Optuna: {error}") from error
        except ImportError as error:
            raise InputError(
                f"{type(self.study.sampler).__name__} of Optuna needs {error.name}, which is not installed: "
                f"pip install {error.name}"
            ) from error
        return trial, config

    def tell(self, trial: Any, score: Array | None) -> None:
        """Tell how a trial ended; one that failed, or is to be forgotten (None), is FAIL to Optuna."""
        values, excess = (None, 0.0) if score is None else self._told(score)
        state = self._optuna.trial.TrialState.FAIL if values is None else None
        if values is not None and not self._ranks:
            trial.set_constraint(EXCESS, excess)
        try:
            self.study.tell(trial, values, state=state)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # a sampler that has nothing left stops Optuna's own loop
                raise


def _is_searched(space: Space, name: str) -> bool:
    return not isinstance(space[name], Constant)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log to errors, and be silent about what is experimental in it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
