"""Bayesian optimization on the full budget: Optuna's tree-structured Parzen estimator, or its Gaussian process.

A model of the losses seen so far says where the next run is worth most. It wants runs that are dear and not many
parameters; where a run can be cut short, `bohb` learns from the short ones too.

Sources: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011 (TPE); Watanabe,
    "Tree-structured Parzen estimator: understanding its algorithm components and their roles", 2023,
    arXiv:2304.11127 (as Optuna has it); Snoek et al., "Practical Bayesian optimization of machine learning
    algorithms", NeurIPS 2012, arXiv:1206.2944.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np

from paretune.errors import check_choice
from paretune.recipe import Range, check_ranges
from paretune.search._optuna import distribution_of
from paretune.search._results import Results
from paretune.search._space.parameters import Constant, Float, Int
from paretune.search._space.space import Config, Space
from paretune.search.samplers._base import OneBudget, Suggestion, from_prior

MODELS = ("tpe", "gp")
TRIES = 20
"""Suggestions that a rule forbids are asked for anew so often; then a draw from the prior is taken."""


@final
@dataclass(frozen=True, kw_only=True)
class Bayes(OneBudget):
    """Let a model of the losses say which configuration is worth a full run."""

    name: ClassVar[str] = "bayes"

    model: str = "tpe"
    """`tpe`, or `gp`, a Gaussian process, which takes seconds for each suggestion beyond a few hundred runs."""
    startup: Annotated[int, Range(1, 100_000)] = 10
    """Draws from the priors before there is a model."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_choice("bayes: model", self.model, MODELS)

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return what the model asks for."""
        if number < self.startup or not np.isfinite(results.losses).any():
            return from_prior(space, generator)
        study = self._study(space, results, int(generator.integers(2**31)))
        for _ in range(TRIES):
            config = _asked(study, space)
            if space.allowed(config):
                return Suggestion(space.row(config), config, "model")
        return from_prior(space, generator)

    def _study(self, space: Space, results: Results, seed: int) -> Any:
        """Return an Optuna study that has seen these results."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: Any = (
                optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
                if self.model == "tpe"
                else optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
            )
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=sampler)
        optuna.logging.set_verbosity(before)
        known = {name: distribution_of(space[name]) for name in space.names if _is_searched(space, name)}
        for row, loss in zip(results.rows, results.losses, strict=True):
            params = {name: value for name, value in space.config(row).items() if name in known}
            distributions = {name: known[name] for name in params}
            state = optuna.trial.TrialState.COMPLETE if math.isfinite(loss) else optuna.trial.TrialState.FAIL
            study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=distributions,
                    state=state,
                    value=float(loss) if math.isfinite(loss) else None,
                )
            )
        return study


def _asked(study: Any, space: Space) -> Config:
    """Return what Optuna suggests, parameter by parameter, those that are active."""
    trial, config = study.ask(), Config()
    for name in space.names:
        parameter = space[name]
        if parameter.when is not None and not parameter.when(config):
            continue
        if isinstance(parameter, Constant):
            config[name] = parameter.value
            continue
        if isinstance(parameter, Float):
            value: Any = trial.suggest_float(
                name, parameter.low, parameter.high, log=parameter.log, step=parameter.step
            )
        elif isinstance(parameter, Int):
            value = trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        else:
            value = trial.suggest_categorical(name, parameter.values())
        config[name] = parameter.decode(parameter.encode(value))
    return config


def _is_searched(space: Space, name: str) -> bool:
    return not isinstance(space[name], Constant)
