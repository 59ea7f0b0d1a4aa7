"""What a run costs: log seconds as a linear function of the configuration, the budget and the worker.

A Bayesian ridge with a flat intercept and a conjugate prior, in closed form: normal weights, inverse-gamma noise,
so that a prediction is a Student t and knows what it does not know. Without evidence a run takes seconds in
proportion to its budget; parameters act by themselves, as squares, and on the exponent of the budget. How far
weights may go is the one of five scales with the largest evidence. Each worker has a factor of its own.

It is a straight line in logarithms: cheap, right from a handful of runs on, and wrong where time jumps (a batch
that no longer fits the cache), which then counts as noise.

Source: Bishop, "Pattern recognition and machine learning", 2006, section 3.3 and 3.5 (evidence); gamma prior on
the precision: exercise 3.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from paretune.search._density import codes, columns
from paretune.search._results import Results
from paretune.search._schedule.ladder import Budget, amount
from paretune.search._space.space import Space

Array = NDArray[np.float64]
ENOUGH = 5
"""Runs from which on there is a model."""
MOST = 1000
"""The latest runs are looked at: more tell little and cost time."""
SCALES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Standard deviations of weights, in units of the noise."""
SHAPE, RATE = 1.0, 0.02
"""Of the inverse-gamma prior of the noise's variance: some 15 % of a run's time."""
SQUARES, WITH_BUDGET = 0.5, 0.25
"""How far weights of squares, and of products with the budget, may go as a part of the others."""


@final
@dataclass(frozen=True, eq=False)
class Cost:
    """Fitted log seconds."""

    categories: NDArray[np.int64]
    workers: tuple[int, ...]
    """Those seen, each with a weight where there are several."""
    logs: float
    """Mean log budget: where features have their origin."""
    level: float
    """Mean log seconds less log budget."""
    middle: Array
    """(p,): mean features."""
    weights: Array
    """(p,)"""
    spread: Array
    """(p, p): covariance of the weights in units of the noise's variance."""
    noise: float
    """Variance."""
    freedom: float
    """Degrees of freedom of predictions."""
    runs: int

    def predict(self, rows: Array, budget: Array | float, worker: int | None = None) -> tuple[Array, Array]:
        """Return mean and standard deviation (the t's scale) of log seconds at rows (n, d), (n,) each.

        budget: (n,) or a number, 1 where there is none. worker: None is the slowest, which a run may get.
        """
        logs = np.broadcast_to(np.log(np.asarray(budget, np.float64)), len(rows))
        chosen = self.slowest if worker is None else worker
        who = np.full(len(rows), chosen)
        off = _features(rows, logs - self.logs, who, self.categories, self.workers) - self.middle
        variance = self.noise * (1 + 1 / self.runs + np.einsum("ij,jk,ik->i", off, self.spread, off))
        return logs + self.level + off @ self.weights, np.sqrt(variance)

    def relative(self, rows: Array) -> Array:
        """Return expected log seconds at rows (n, d), at the budget that runs had on average, (n,)."""
        return self.predict(rows, float(np.exp(self.logs)))[0]

    def quantile(self, rows: Array, budget: Array | float, share: float = 0.9) -> Array:
        """Return the seconds that runs at rows (n, d) stay below with this probability, (n,)."""
        mean, std = self.predict(rows, budget)
        return np.asarray(np.exp(mean + std * special.stdtrit(self.freedom, share)))

    @property
    def speeds(self) -> dict[int, float]:
        """Seconds that each worker takes, as a part of what the average one does."""
        if len(self.workers) < 2:
            return dict.fromkeys(self.workers, 1.0)
        found = self.weights[-len(self.workers) :]
        return {worker: float(np.exp(each)) for worker, each in zip(self.workers, found, strict=True)}

    @property
    def slowest(self) -> int:
        """The worker whose factor is the largest."""
        return max(self.workers, key=lambda worker: self.speeds[worker])


def cost_of(space: Space, results: Results, budgets: Sequence[Budget | None]) -> Cost | None:
    """Return the model of a study's results; None where too few runs are known. budgets: the ladder."""
    if results.seconds is None or results.workers is None:
        return None
    ladder = np.array([amount(budget) for budget in budgets])
    kinds = columns(space).categories
    return fit(results.rows, ladder[results.rungs], results.seconds, results.workers, kinds)


def fit(
    rows: Array, budgets: Array, seconds: Array, workers: NDArray[np.int64], categories: NDArray[np.int64]
) -> Cost | None:
    """Return the model of finished runs; None where there are fewer than 5.

    rows: (n, d) in [0, 1], NaN where not active. budgets: (n,), 1 where there is none. seconds: (n,); runs of no
    time or NaN (failed ones) are left out. workers: (n,). categories: (d,), 0 for numbers.
    """
    usable = np.flatnonzero(np.isfinite(seconds) & (seconds > 0))[-MOST:]
    if len(usable) < ENOUGH:
        return None
    rows, workers, known = rows[usable], workers[usable], tuple(int(each) for each in np.unique(workers[usable]))
    logs = np.log(budgets[usable])
    features = _features(rows, logs - logs.mean(), workers, categories, known)
    target = np.log(seconds[usable]) - logs
    middle, level = features.mean(axis=0), float(target.mean())
    prior = _prior(categories, known)
    scaled = (features - middle) * prior
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    values = np.maximum(values, 0.0)  # rounding makes some of them negative
    along = vectors.T @ (scaled.T @ (target - level))
    shape = SHAPE + (len(usable) - 1) / 2
    square = float(((target - level) ** 2).sum())
    best: tuple[float, float, float] | None = None
    for scale in SCALES:
        gain = scale**2 / (1 + scale**2 * values)
        rate = RATE + 0.5 * max(0.0, square - float((gain * along**2).sum()))
        evidence = -0.5 * float(np.log1p(scale**2 * values).sum()) - shape * float(np.log(rate))
        if best is None or evidence > best[0]:
            best = (evidence, scale, rate)
    assert best is not None
    _, scale, rate = best
    gain = scale**2 / (1 + scale**2 * values)
    spread = (vectors * gain) @ vectors.T * np.outer(prior, prior)
    return Cost(
        categories, known, float(logs.mean()), level, middle, prior * (vectors @ (gain * along)), spread,
        rate / shape, 2 * shape, len(usable),
    )  # fmt: skip


def _features(
    rows: Array, logs: Array, workers: NDArray[np.int64], categories: NDArray[np.int64], known: tuple[int, ...]
) -> Array:
    """Return (n, p): log budget, bases, squares of numbers, bases times log budget, workers."""
    bases, squares = [], []
    for column, count in enumerate(categories):
        values = rows[:, column]
        if count:
            code = codes(values, int(count))
            bases += [(code == each).astype(np.float64) for each in range(int(count))]
            continue
        missing = np.isnan(values)
        centred = np.where(missing, 0.0, values - 0.5)
        bases += [centred, missing.astype(np.float64)]
        squares.append(np.where(missing, 0.0, centred**2))
    who = [(workers == each).astype(np.float64) for each in known] if len(known) > 1 else []
    return np.stack([logs, *bases, *squares, *(base * logs for base in bases), *who], axis=1)


def _prior(categories: NDArray[np.int64], known: tuple[int, ...]) -> Array:
    """Return how far each weight may go, (p,), beside the common scale."""
    bases = int(sum(count or 2 for count in categories))
    squares = int((categories == 0).sum())
    who = len(known) if len(known) > 1 else 0
    return np.array([1.0] + [1.0] * bases + [SQUARES] * squares + [WITH_BUDGET] * bases + [1.0] * who)
