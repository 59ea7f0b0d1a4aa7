"""Bayesian optimization on the full budget: Optuna's tree-structured Parzen estimator, or its Gaussian process.

A model of the losses seen so far says where the next run is worth most. It wants runs that are dear and not many
parameters; where a run can be cut short, `bohb` learns from the short ones too. Priors are where the first draws
come from, and weight the model's score afterwards, as far as the results agree with them (`_prior`).

Sources: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011 (TPE); Watanabe,
    "Tree-structured Parzen estimator: understanding its algorithm components and their roles", 2023,
    arXiv:2304.11127 (as Optuna has it); Snoek et al., "Practical Bayesian optimization of machine learning
    algorithms", NeurIPS 2012, arXiv:1206.2944.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, ClassVar, final

import numpy as np

from paretune.errors import check_choice
from paretune.recipe import Range, check_ranges
from paretune.search._density import bandwidths, columns, marginals
from paretune.search._optuna import Seen, quiet
from paretune.search._results import Array, Results
from paretune.search._space.space import Config, Space
from paretune.search.samplers._base import OneBudget, Suggestion, from_prior
from paretune.search.samplers._prior import LEAST, log_prior, power

MODELS = ("tpe", "gp")
TRIES = 20
"""Suggestions that a rule forbids are asked for anew so often; then a draw from the prior is taken."""
CANDIDATES, DRAWN = 4, 128
"""Suggestions of Optuna, and draws from the prior, among which the best is taken where there is a prior."""


@final
@dataclass(frozen=True, kw_only=True)
class Bayes(OneBudget):
    """Let a model of the losses say which configuration is worth a full run."""

    name: ClassVar[str] = "bayes"

    model: str = "tpe"
    """`tpe`, or `gp`, a Gaussian process, which takes seconds for each suggestion beyond a few hundred runs."""
    startup: Annotated[int, Range(1, 100_000)] = 10
    """Draws before there is a model: from the priors, and some beside them, so that a wrong one shows."""
    beta: Annotated[float, Range(0.0, 10_000.0)] = 30.0
    """How long priors count: of n runs, their power is beta / n at most; 0: only before there is a model."""
    top: Annotated[float, Range(0.0, 1.0, low_open=True, high_open=True)] = 0.15
    """Share of the runs that counts as good where candidates are weighted by a prior."""
    _kept: Any = field(default_factory=list, init=False, repr=False, compare=False)
    """The Optuna study (`Seen`) of the last suggestion."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_choice("bayes: model", self.model, MODELS)

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return what the model asks for, or the candidate that model and prior together say is best."""
        trust = power(space, results.rows, results.losses, self.beta)
        if number < self.startup or not np.isfinite(results.losses).any():
            aside = number % 2 == 1 if number < LEAST else trust == 0
            return from_prior(space, generator, uniform=space.informed and aside)
        many = CANDIDATES if space.informed and self.model == "tpe" else 1  # a Gaussian process hardly varies
        asked = self._asked(space, results, generator, many)
        if not asked:
            return from_prior(space, generator)
        rows = np.stack([space.row(config) for config in asked])
        if not space.informed:
            return Suggestion(rows[0], asked[0], "model")
        if trust > 0:
            rows = np.concatenate([rows, space.rows(generator.random((DRAWN, len(space))))])
        for row in rows[np.argsort(-self._scores(space, results, rows, trust), kind="stable")]:
            config = space.config(row)
            if space.allowed(config):
                return Suggestion(row, config, "model")
        raise AssertionError("what was asked for is allowed")

    def _asked(self, space: Space, results: Results, generator: np.random.Generator, count: int) -> list[Config]:
        """Return suggestions of Optuna that no rule forbids, `count` of them at most."""
        if not self._kept or not self._kept[0].precedes(space, results):
            self._kept[:] = [Seen(space, None, results)]
        (seen,) = self._kept
        with quiet():
            for row, score in seen.new(results):
                seen.add(row, score)
            for row in results.pending:
                seen.add(row, None)
            seen.study.sampler = self._sampler(int(generator.integers(2**31)))
            tried = (seen.ask()[1] for _ in range(TRIES))
            found = list(islice((config for config in tried if space.allowed(config)), count))
            seen.forget()
        return found

    def _sampler(self, seed: int) -> Any:
        """Return Optuna's, fresh: what it draws depends on the seed and on what its study has seen alone."""
        import optuna

        kind = optuna.samplers.TPESampler if self.model == "tpe" else optuna.samplers.GPSampler
        return kind(seed=seed, n_startup_trials=1)

    def _scores(self, space: Space, results: Results, points: Array, trust: float) -> Array:
        """Return the logarithm of score times prior^trust at points (m, parameters), (m,).

        The score is TPE's, the ratio of the densities of good and bad runs: Optuna does not tell that of its own
        models.
        """
        n, d = results.rows.shape
        order = np.argsort(results.losses, kind="stable")
        count = max(1, min(d + 1, n // 2), int(self.top * n))
        about, found = columns(space), trust * log_prior(space, points)
        for rows, sign in ((results.rows[order[:count]], 1), (results.rows[order[count:]], -1)):
            found += sign * marginals(points, rows, bandwidths(rows, about, together=False), about)
        return found
