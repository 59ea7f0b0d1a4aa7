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
        self.spent += budget if cost is None else cost
        self.evaluations += 1
        if budget > self._best[0] or (budget == self._best[0] and loss < self._best[1]):
            self._best, self._regret = (budget, loss), self.problem.regret(config)
        while len(self.regrets) < len(self.checks) and self.spent >= self.checks[len(self.regrets)] * self.full:
            self.regrets.append(self._regret)
        return float(loss)

    @property
    def done(self) -> bool:
        """Whether the last checkpoint is reached."""
        return len(self.regrets) == len(self.checks)
