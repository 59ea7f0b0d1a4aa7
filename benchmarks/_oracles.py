"""Problems of the search benchmarks, for paretune and its peers alike: numpy only, so that every environment has
it.

A problem is a loss over named values and a budget; `Track` follows the incumbent: the configuration of the least
loss on the largest budget that was seen, judged by its loss without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BUDGETS = (9, 27, 81, 243, 729)


@dataclass(frozen=True)
class Number:
    """A real number of a problem, in [low, high]."""

    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Choice:
    """One of several values without an order."""

    values: tuple[Any, ...]


Spec = dict[str, Number | Choice]


@dataclass
class CountingOnes:
    """Counting ones (Falkner et al., arXiv:1807.01774): n categories of 0 and 1, n numbers in [0, 1].

    The loss is minus the sum of the categories and of the means of `budget` Bernoulli draws with each number.
    """

    n: int
    seed: int

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng([self.seed, 7])

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Categories and numbers."""
        return [f"c{i}" for i in range(self.n)], [f"x{i}" for i in range(self.n)]

    @property
    def space(self) -> Spec:
        """What a configuration holds."""
        categories, numbers = self.names
        return {name: Choice((0, 1)) for name in categories} | {name: Number() for name in numbers}

    @property
    def best(self) -> dict[str, Any]:
        """The configuration of the least loss."""
        return {name: 1 for names in self.names for name in names}

    def loss(self, config: dict[str, Any], budget: float) -> float:
        """Return the noisy loss."""
        categories, numbers = self.names
        drawn = self._generator.binomial(int(budget), [float(config[name]) for name in numbers]) / int(budget)
        return -float(sum(int(config[name]) for name in categories) + drawn.sum())

    def regret(self, config: dict[str, Any]) -> float:
        """Return by how much the loss without noise is above the least, 0 to 2 n."""
        categories, numbers = self.names
        return float(
            2 * self.n - sum(int(config[name]) for name in categories) - sum(float(config[n]) for n in numbers)
        )


EXACT = "exact"
"""Hartmann6 without bias and noise, on every budget."""
QUALITIES = {"good": (0.5, 0.1), "moderate": (1.0, 0.2), "bad": (2.0, 0.4), "terrible": (4.0, 0.8)}
"""Of Hartmann6's small budgets: bias, and standard deviation of the noise, both at the smallest.

As mf-prior-bench first had them. Its later ones, a bias of 2.5 to 4 and a noise of 2 to 5, leave nothing to learn
from any budget but the largest: with them all four are alike.
"""
ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


@dataclass
class Hartmann6:
    """Hartmann's function of six numbers, whose small budgets are biased and noisy.

    -sum_i (alpha_i - bias (1 - z)^2) exp(-sum_j A_ij (x_j - P_ij)^2) + noise (1 - z) N(0, 1), with z = 0 at the
    smallest budget and 1 at the largest, linear between: there it is Hartmann's own, without noise. Where the bias
    is above 1, small budgets turn some of its valleys into hills. Source of the formula and of the four qualities:
    mf-prior-bench, the benchmarks of Mallik et al., "PriorBand", NeurIPS 2023, arXiv:2306.12370.
    """

    quality: str
    seed: int

    def __post_init__(self) -> None:
        self.bias, self.noise = (QUALITIES | {EXACT: (0.0, 0.0)})[self.quality]
        self._generator = np.random.default_rng([self.seed, 11])

    @property
    def space(self) -> Spec:
        """What a configuration holds."""
        return {f"x{i}": Number() for i in range(6)}

    @property
    def best(self) -> dict[str, Any]:
        """The configuration of the least loss, -3.32237."""
        return dict(zip(self.space, (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), strict=True))

    def loss(self, config: dict[str, Any], budget: float) -> float:
        """Return the noisy loss."""
        far = 1 - (budget - BUDGETS[0]) / (BUDGETS[-1] - BUDGETS[0])
        drawn = self._generator.normal()
        return self._value(config, ALPHA - self.bias * far**2) + self.noise * far * drawn

    def regret(self, config: dict[str, Any]) -> float:
        """Return by how much the loss on the largest budget is above the least, 0 to 3.32."""
        return self._value(config, ALPHA) - self._value(self.best, ALPHA)

    def _value(self, config: dict[str, Any], alpha: np.ndarray) -> float:
        x = np.array([float(config[name]) for name in self.space])
        return -float(alpha @ np.exp(-(A * (x - P) ** 2).sum(1)))


def problem(name: str, size: str, seed: int) -> Any:
    """Return a problem by its name: counting_ones of a size ("8" is 8+8), hartmann6 of a quality, lcbench of one
    of its tasks."""
    if name == "lcbench":
        from _lcbench import LcBench

        return LcBench(size)
    return CountingOnes(int(size), seed) if name == "counting_ones" else Hartmann6(size, seed)


@dataclass
class Track:
    """The incumbent's regret at checkpoints, in full runs."""

    problem: Any
    checks: Sequence[float]
    full: float
    spent: float = 0.0
    regrets: list[float] = field(default_factory=list)
    evaluations: int = 0
    _best: tuple[float, float] = (-1.0, np.inf)
    _regret: float = np.inf

    def evaluate(self, config: dict[str, Any], budget: float, cost: float | None = None) -> float:
        """Evaluate, pay, and note the incumbent; returns the loss."""
        loss = self.problem.loss(config, budget)
        before, timed = self._regret, hasattr(self.problem, "cost")
        if timed:  # a run may go far beyond a checkpoint: what it finds counts after its end
            cost = self.problem.cost(config, budget)
        self.spent += budget if cost is None else cost
        self.evaluations += 1
        if budget > self._best[0] or (budget == self._best[0] and loss < self._best[1]):
            self._best, self._regret = (budget, loss), self.problem.regret(config)
        while len(self.regrets) < len(self.checks) and self.spent >= self.checks[len(self.regrets)] * self.full:
            self.regrets.append(before if timed else self._regret)
        return float(loss)

    @property
    def budgets(self) -> tuple[float, ...]:
        """The ladder of the problem."""
        return tuple(getattr(self.problem, "budgets", BUDGETS))

    @property
    def done(self) -> bool:
        """Whether the last checkpoint is reached."""
        return len(self.regrets) == len(self.checks)


def track_of(name: str, size: str, seed: int, checks: Sequence[float]) -> Track:
    """Return the track of a problem, in its own full runs."""
    made = problem(name, size, seed)
    return Track(made, checks, getattr(made, "full", BUDGETS[-1]))
