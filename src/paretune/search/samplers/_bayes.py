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
from typing import Annotated, Any, ClassVar, final

import numpy as np

from paretune.errors import check_choice
from paretune.recipe import Range, check_ranges
from paretune.search._density import bandwidths, columns, marginals
from paretune.search._optuna import Seen, quiet
from paretune.search._results import Array, Results
from paretune.search._space.space import Config, Space
from paretune.search.samplers._base import OneBudget, Suggestion, from_prior
from paretune.search.samplers._prior import log_prior, power

MODELS = ("tpe", "gp")
TRIES = 20
"""Suggestions that a rule forbids are asked for anew so often; then a draw from the prior is taken."""
ASIDE = 4
"""One in so many draws before there is a model leaves priors aside, so that a wrong prior shows."""
DRAWN = 128
"""Draws from the prior that are candidates beside the model's own."""


@final
@dataclass(frozen=True, kw_only=True)
class Bayes(OneBudget):
    """Let a model of the losses say which configuration is worth a full run."""

    name: ClassVar[str] = "bayes"

    model: str = "tpe"
    """`tpe`, or `gp`, a Gaussian process, which takes seconds for each suggestion beyond a few hundred runs."""
    startup: Annotated[int, Range(1, 100_000)] = 10
    """Draws from the priors before there is a model."""
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
        if number < self.startup or not np.isfinite(results.losses).any():
            return from_prior(space, generator, uniform=space.informed and number % ASIDE == ASIDE - 1)
        config = self._asked(space, results, generator)
        if config is None:
            return from_prior(space, generator)
        row = space.row(config)
        trust = power(space, results.rows, results.losses, self.beta)
        if trust > 0:
            row, config = self._weighted(space, results, row, trust, generator)
        return Suggestion(row, config, "model")

    def _asked(self, space: Space, results: Results, generator: np.random.Generator) -> Config | None:
        """Return what Optuna suggests; None where rules forbid all of it."""
        if not self._kept or not self._kept[0].precedes(space, results):
            self._kept[:] = [Seen(space, None)]
        (seen,) = self._kept
        with quiet():
            for row, loss in seen.new(results):
                seen.add(row, loss)
            for row in results.pending:
                seen.add(row, None)
            seen.study.sampler = self._sampler(int(generator.integers(2**31)))
            tried = (seen.ask()[1] for _ in range(TRIES))
            found = next((config for config in tried if space.allowed(config)), None)
            seen.forget()
        return found

    def _sampler(self, seed: int) -> Any:
        """Return Optuna's, fresh: what it draws depends on the seed and on what its study has seen alone."""
        import optuna

        kind = optuna.samplers.TPESampler if self.model == "tpe" else optuna.samplers.GPSampler
        return kind(seed=seed, n_startup_trials=1)

    def _weighted(
        self, space: Space, results: Results, asked: Array, trust: float, generator: np.random.Generator
    ) -> tuple[Array, Config]:
        """Return the best of what was asked for and of draws from the prior, by score times prior^trust.

        The score is TPE's, the ratio of the densities of good and bad runs: Optuna does not tell that of its own
        models. trust: the prior's power.
        """
        n, d = results.rows.shape
        order = np.argsort(results.losses, kind="stable")
        count = max(1, min(d + 1, n // 2), int(self.top * n))
        good, bad = results.rows[order[:count]], results.rows[order[count:]]
        points = np.concatenate([asked[None], space.rows(generator.random((DRAWN, d)))])
        about, score = columns(space), trust * log_prior(space, points)
        for rows, sign in ((good, 1), (bad, -1)):
            score += sign * marginals(points, rows, bandwidths(rows, about, together=False), about)
        for row in points[np.argsort(-score, kind="stable")]:
            config = space.config(row)
            if space.allowed(config):
                return row, config
        raise AssertionError("what was asked for is allowed")
