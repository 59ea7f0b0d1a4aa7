"""The recursion of beta: from beta(l), and what the network gives under its gates, to beta(l+1).

Every channel of a layer of n channels has a gate sigmoid(beta) and starts at beta = log n, a gate of n / (n + 1):
of every layer, whatever its width, n / (n + 1), about one channel, is expected to go. J is the task's loss on a
batch plus the budget penalty. The index l is read in two ways:

- `iteration`: l counts the steps of training. Every step moves the betas of all layers at once, by the gradient at
  the gates that all of them had before it (as Jacobi's method solves equations):
      beta(l+1) = beta(l) - rate * dJ/dbeta(l).
- `layer`: l counts the layers, in the order of the graph. Layer l+1 starts at log n of its own, and moves when all
  layers before it have moved: what it reads, Z(l), was computed under the gates that layer l has just got, and the
  gradient that Z(l) gives yields its own (as Gauss and Seidel's method does):
      beta(l+1) = log n(l+1) - rate * dJ/dbeta(l+1) at (beta(1), ..., beta(l) moved, log n(l+1), ... as they were).
  A step of training moves one layer, so that a sweep over L layers takes L batches and a step costs what it did.
  After the last layer the next sweep begins at the first, and each layer goes on from the beta that it had.

Both are deterministic, are computed by hand for two layers in the tests, and differ from the first sweep on.

Adagrad: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
JMLR 12, 2011: the rate of every beta is divided by the root of the sum of its squared gradients. The gate of a
wide layer is almost flat at the start, its slope n / (n + 1)^2; Adagrad moves it as far as that of a narrow one,
where SGD hardly does.
"""

from __future__ import annotations

import torch
from torch import Tensor

RECURSIONS = ("iteration", "layer")
OPTIMIZERS = ("adagrad", "sgd")
EPSILON = 1e-10


def start_of(channels: int) -> float:
    """Return beta at the start of a layer of so many channels.

    >>> round(float(torch.sigmoid(torch.tensor(start_of(3)))), 6)
    0.75
    """
    return float(torch.tensor(float(channels), dtype=torch.float64).log())


def layer_of(recursion: str, step: int, layers: int) -> int | None:
    """Return the layer whose betas move at a step, counted from 1; None where all do.

    >>> [layer_of("layer", step, 3) for step in (1, 2, 3, 4)]
    [0, 1, 2, 0]
    """
    return (step - 1) % layers if recursion == "layer" else None


@torch.no_grad()
def move(beta: Tensor, squares: Tensor, gradient: Tensor, *, optimizer: str, rate: float) -> None:
    """Move beta against its gradient, in place; squares: the sums of squared gradients so far, for Adagrad."""
    if optimizer == "sgd":
        beta -= rate * gradient
        return
    squares += gradient.square()
    beta -= rate * gradient / (squares.sqrt() + EPSILON)
