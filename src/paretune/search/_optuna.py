"""What paretune's parameters and results are to Optuna, of which only public arguments and methods are used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.search._results import Array, Results
from paretune.search._space.parameters import Constant, Float, Int, Parameter
from paretune.search._space.space import Config, Space


def distribution_of(parameter: Parameter) -> Any:
    """Return the distribution of a parameter that is searched over; priors are not part of it."""
    from optuna import distributions

    if isinstance(parameter, Float):
        return distributions.FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return distributions.CategoricalDistribution(parameter.values())


@final
class Seen:
    """An Optuna study in memory that has seen results, in their order.

    To be told of a run costs Optuna a copy of all it knows of it: a study that is kept, and told only what is new,
    takes a suggestion in a time that does not grow with the square of the runs.
    """

    def __init__(self, space: Space, sampler: Any) -> None:
        import optuna

        self._optuna, self.space = optuna, space
        with quiet():
            self.study: Any = optuna.create_study(sampler=sampler)
        self._known = {name: distribution_of(space[name]) for name in space.names if _is_searched(space, name)}
        self._rows: list[Array] = []
        self._losses: list[float] = []

    def new(self, results: Results) -> Iterator[tuple[Array, float]]:
        """Yield the rows and losses that were not seen; the caller tells Optuna of each."""
        for row, loss in zip(results.rows[len(self._rows) :], results.losses[len(self._rows) :], strict=True):
            self._rows.append(row.copy())
            self._losses.append(float(loss))
            yield row, float(loss)

    def precedes(self, space: Space, results: Results) -> bool:
        """Tell whether what was seen is what these results begin with, of the same space."""
        n = len(self._rows)
        return (
            space is self.space
            and n <= len(results)
            and self._losses == results.losses[:n].tolist()
            and np.array_equal(np.reshape(self._rows, (n, len(space))), results.rows[:n], equal_nan=True)
        )

    def add(self, row: Array, loss: float | None) -> None:
        """Add a run that Optuna did not suggest; None: it is under way."""
        states = self._optuna.trial.TrialState
        params = {name: value for name, value in self.space.config(row).items() if name in self._known}
        state = states.RUNNING if loss is None else states.COMPLETE if math.isfinite(loss) else states.FAIL
        self.study.add_trial(
            self._optuna.trial.create_trial(
                params=params,
                distributions={name: self._known[name] for name in params},
                state=state,
                value=loss if state == states.COMPLETE else None,
            )
        )

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
                self.study.enqueue_trial({name: fixed[name] for name in fixed if name in self._known})
            trial = self.study.ask()
            for name in space.names:
                parameter = space[name]
                if parameter.when is not None and not parameter.when(config):
                    continue
                config[name] = parameter.decode(parameter.encode(_suggested(trial, name, parameter)))
        except ImportError as error:
            raise InputError(
                f"{type(self.study.sampler).__name__} of Optuna needs {error.name}, which is not installed: "
                f"pip install {error.name}"
            ) from error
        return trial, config

    def tell(self, trial: Any, loss: float | None) -> None:
        """Tell how a trial ended; one that failed, or is to be forgotten (None), is FAIL to Optuna."""
        failed = loss is None or not math.isfinite(loss)
        state = self._optuna.trial.TrialState.FAIL if failed else None
        try:
            self.study.tell(trial, None if failed else loss, state=state)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # a sampler that has nothing left stops Optuna's own loop
                raise


def _suggested(trial: Any, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Constant):
        return parameter.value
    if isinstance(parameter, Float):
        return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return trial.suggest_categorical(name, parameter.values())


def _is_searched(space: Space, name: str) -> bool:
    return not isinstance(space[name], Constant)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log to warnings, and be silent about what is experimental in it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
