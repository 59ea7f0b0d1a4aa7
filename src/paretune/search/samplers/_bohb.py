"""BOHB: a model of good and bad configurations on each budget, and draws where good ones are dense and bad ones
not.

As published, the model is that of the largest budget that has one: its best 15 % of runs and the others, each a
kernel density over all parameters at once, from 2 (d + 1) runs on; of 64 draws from the good one, with kernels
three times as wide, the one with the largest ratio of good to bad is taken; a third of all draws comes from the
prior (a fifth here).

Here densities of each parameter by itself take over as soon as a budget has 12 runs, and half of the model's draws
go on with them when the joint ones begin: many parameters act mostly alone, and the joint model comes too late for
them. Half of the joint ones are TPE's (`_parzen`): where the few good runs are near each other, the published
kernels see nothing else. Until there are enough runs for the best 15 %, the better half counts as good, of d + 1
runs at most. Brackets that begin on budgets whose order was found to mislead are left out (`_schedule.trust`).
Priors are where draws without a model come from, half of which leave them aside, and weight the ratio as far as
results agree with them (`_prior`), so that a wrong prior is overruled.

With `cost`, the ratio is divided by the seconds that a run will take, as expected improvement per second is by
Snoek et al., "Practical Bayesian optimization of machine learning algorithms", NeurIPS 2012, arXiv:1206.2944.

Source: Falkner et al., "BOHB: robust and efficient hyperparameter optimization at scale", ICML 2018,
arXiv:1807.01774; draws beside the prior: Mallik et al., "PriorBand", NeurIPS 2023, arXiv:2306.12370. What differs
between the first paper and its authors' code is as in the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from paretune.errors import check_choice
from paretune.recipe import Range
from paretune.search._cost import cost_of
from paretune.search._density import Columns, bandwidths, columns, draw, joint, marginals
from paretune.search._parzen import Parzen
from paretune.search._results import Results
from paretune.search._schedule.schedules import Schedule
from paretune.search._space.space import Space
from paretune.search.samplers._base import Halved, Suggestion, from_prior
from paretune.search.samplers._evidence import weights
from paretune.search.samplers._prior import LEAST, agreement, log_prior, power

Array = NDArray[np.float64]
VARIANTS = ("default", "paper")
POWER = 1.0
"""Of expected seconds, by which the ratio of good to bad is divided."""
MOST = 512
"""Kernels of a density: the best ones of the good runs, a draw of the others; more tell little and cost time."""


@final
@dataclass(frozen=True, kw_only=True)
class Bohb(Halved):
    """Draw where good configurations are dense and bad ones are not; the best of small budgets get larger ones."""

    name: ClassVar[str] = "bohb"

    variant: str = "default"
    """`paper`: joint densities alone, as published."""
    random: Annotated[float | None, Range(0.0, 1.0)] = None
    """Share of the draws that come from the prior; None: a fifth, and a third in the variant `paper`."""
    top: Annotated[float, Range(0.0, 1.0, low_open=True, high_open=True)] = 0.15
    """Share of a budget's runs that counts as good."""
    candidates: Annotated[int, Range(1, 100_000)] = 64
    """Draws from the good density, of which the best is taken."""
    wider: Annotated[float, Range(0.0, 100.0, low_open=True)] = 3.0
    """How much wider the kernels of numbers are when candidates are drawn."""
    floor: Annotated[float, Range(0.0, 1.0, low_open=True)] = 1e-3
    """Least bandwidth, as a part of a parameter's range."""
    early: Annotated[int, Range(4, 10_000)] = 12
    """Runs on a budget from which on there are marginal densities; not in the variant `paper`."""
    together: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Share of the model's draws from the joint densities, where there are some; not in the variant `paper`."""
    parzen: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Share of the joint draws whose kernels are as wide as they stand apart, as in TPE; not in the variant
    `paper`."""
    uniform: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Share of the draws without a model that leave priors aside, where there are priors."""
    evidence: Annotated[float, Range(0.0, 1.0)] = 1.0
    """What the models of smaller budgets count for beside the asked one, at most: as far as their order predicts
    its order; 0: nothing, as published."""
    trusting: bool = False
    """Begin brackets on budgets whose order was found to say nothing of the next one's, too; always in the variant
    `paper`."""
    cost: bool = False
    """Prefer configurations that run faster: wanted where the search's budget is time. A study then depends on
    what the clock said, and no longer on its seed alone."""
    beta: Annotated[float, Range(0.0, 10_000.0)] = 30.0
    """How long priors weight candidates: with n kernels, the ratio is multiplied by prior^(beta / n) at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("bohb: variant", self.variant, VARIANTS)

    def schedule(self, workers: int) -> Schedule:
        """Return Hyperband's schedule, or the asynchronous one, without brackets that mislead."""
        return self._schedule(workers, trusting=self.trusting or self.variant == "paper")

    def suggest(self, space: Space, results: Results, generator: np.random.Generator, number: int) -> Suggestion:
        """Return a draw from the model, or from the prior."""
        top = self.model(results)
        if top is None or generator.random() < self._random:
            aside = space.informed and generator.random() < self._aside(space, results)
            return from_prior(space, generator, uniform=aside)
        for row in self._ranked(space, results, top, generator):
            config = space.config(row)
            if space.allowed(config):
                return Suggestion(row, config, "model")
        return from_prior(space, generator)

    @property
    def _random(self) -> float:
        if self.random is not None:
            return self.random
        return 1 / 3 if self.variant == "paper" else 1 / 5

    def _aside(self, space: Space, results: Results) -> float:
        """Return the share of draws that leave priors aside: all of them where nothing speaks for the priors."""
        rows, losses = results.at(int(np.bincount(results.rungs).argmax()) if len(results) else 0)
        return self.uniform if len(rows) < LEAST or agreement(space, rows, losses) > 0 else 1.0

    def model(self, results: Results) -> int | None:
        """Return the largest rung that has enough runs for a model."""
        least = 2 * (results.rows.shape[1] + 1)
        least = least if self.variant == "paper" else min(least, self.early)
        enough = np.flatnonzero(np.bincount(results.rungs) >= least)
        return int(enough[-1]) if len(enough) else None

    def joined(self, results: Results, rung: int, generator: np.random.Generator) -> bool:
        """Return whether the densities of a rung are joint ones."""
        enough = len(results.at(rung)[0]) >= 2 * (results.rows.shape[1] + 1)
        return enough and (self.variant == "paper" or generator.random() < self.together)

    def split(self, results: Results, rung: int, generator: np.random.Generator) -> tuple[Array, Array]:
        """Return good and bad rows of a rung."""
        rows, losses = results.at(rung)
        order = np.argsort(losses, kind="stable")
        count = max(min(rows.shape[1] + 1, len(rows) // 2), int(self.top * len(rows)))
        good, bad = order[:count], order[count:]
        if self.variant != "paper":
            good = good[:MOST]
            bad = bad if len(bad) <= MOST else generator.choice(bad, MOST, replace=False)
        return rows[good], rows[bad]

    def _ranked(self, space: Space, results: Results, top: int, generator: np.random.Generator) -> Array:
        """Return candidates, the largest ratio of good to bad first, with what else there is to weigh."""
        paper, joined = self.variant == "paper", self.joined(results, top, generator)
        about = columns(space, self.floor)
        good, bad = self.split(results, top, generator)
        if joined and not paper and generator.random() < self.parzen:
            points, ratio_of = Parzen(good, about).draw(self.candidates, generator), _parzen
        else:
            widths = bandwidths(good, about, together=joined)
            wide = np.where(about.categories > 0, widths, self.wider * widths)
            points = draw(good, wide, about, self.candidates, generator, together=joined)
            ratio_of = _joint if joined else _marginals
        points = space.masked(_filled(space, points, generator))
        ratio = ratio_of(points, good, bad, about)
        if self.evidence and not paper:
            least = 2 * (len(space) + 1) if joined else self.early
            for rung, weight in weights(results, top, least).items():
                ratio += self.evidence * weight * ratio_of(points, *self.split(results, rung, generator), about)
        if self.cost and (cost := cost_of(space, results, self.budgets)) is not None:
            ratio -= POWER * cost.relative(points)
        if space.informed:
            rows, ranks = np.concatenate([good, bad]), np.minimum(np.arange(len(good) + len(bad)), len(good))
            ratio += power(space, rows, ranks.astype(float), self.beta) * log_prior(space, points)
        return np.asarray(points[np.argsort(-ratio, kind="stable")])


def _parzen(points: Array, good: Array, bad: Array, about: Columns) -> Array:
    """Return the logarithm of the ratio of TPE's densities at points, (m,)."""
    return Parzen(good, about).log(points) - Parzen(bad, about).log(points)


def _joint(points: Array, good: Array, bad: Array, about: Columns) -> Array:
    high, low = (joint(points, rows, bandwidths(rows, about, together=True), about) for rows in (good, bad))
    return high - low


def _marginals(points: Array, good: Array, bad: Array, about: Columns) -> Array:
    high, low = (marginals(points, rows, bandwidths(rows, about, together=False), about) for rows in (good, bad))
    return high - low


def _filled(space: Space, points: Array, generator: np.random.Generator) -> Array:
    """Return points with draws from the prior along columns of which nothing is known."""
    unknown = np.isnan(points).all(axis=0)
    for column in np.flatnonzero(unknown):
        points[:, column] = space[space.names[column]].draw(generator.random(len(points)))
    return points
