"""FISTA: linear and logistic regression under an L1 penalty, with a certificate of how good the solution is.

For the convex models the minimum is one, and a dual feasible point bounds it from below: the duality gap says
    how far the objective is from the minimum at most, whatever the iteration did. Objectives, for n samples:

    squares:   1 / (2n) ||y - Xw||^2 + strength ||w||_1
    logistic:  1 / n sum log(1 + exp(-y_i x_i w)) + strength ||w||_1,  y_i of -1 or 1

The dual point is the residual, scaled into the feasible set. The momentum is restarted where it points uphill.

Sources: Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM
    J. Imaging Sciences 2, 2009, section 4; O'Donoghue and Candes, "Adaptive restart for accelerated gradient
    schemes", 2015, arXiv:1204.3982, section 3.2; Koh, Kim and Boyd, "An interior-point method for large-scale
    l1-regularized logistic regression", JMLR 8, 2007, section 2.3 (the dual point and the gap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.errors import InputError, RunError, check_whole, is_number, nearest

LOSSES = ("squares", "logistic")
EVERY = 10
"""Iterations between two looks at the gap."""


@dataclass(frozen=True)
class Solution:
    """Weights, and a proof of how good they are."""

    weight: Tensor
    """(features,) float64; many entries are exactly zero."""
    objective: float
    gap: float
    """The objective is at most so much above its minimum."""
    iterations: int


def fista(
    inputs: Tensor,
    target: Tensor,
    strength: float,
    *,
    loss: str = "squares",
    tolerance: float = 1e-8,
    iterations: int = 100_000,
) -> Solution:
    """Return the minimum of a convex model under an L1 penalty, to within a tolerance that is proved.

    inputs: (n, features). target: (n,), numbers, or -1 and 1 for `logistic`. There is no intercept: centre the
        inputs and the target, or add a column of ones (which is penalised then).
    tolerance: the largest duality gap, relative to the objective at zero weights.
    Raises RunError where the gap is still larger after so many iterations.
    """
    x, y = _checked(inputs, target, strength, loss, tolerance)
    check_whole("prune.fista: iterations", iterations)
    n = len(y)
    lipschitz = float(torch.linalg.matrix_norm(x, 2)) ** 2 / n / (4 if loss == "logistic" else 1)
    weight = x.new_zeros(x.shape[1])
    ahead, momentum = weight, 1.0
    objective, gap = _gap(x, y, weight, strength, loss)
    bound = tolerance * objective
    done = 0
    while gap > bound and done < iterations and lipschitz > 0:
        for _ in range(EVERY):
            moved = ahead + x.T @ _residual(x, y, ahead, loss) / n / lipschitz
            new = moved - moved.clamp(-strength / lipschitz, strength / lipschitz)
            if float((ahead - new) @ (new - weight)) > 0:  # uphill
                momentum = 1.0
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = new + (momentum - 1) / following * (new - weight)
            weight, momentum = new, following
        done += EVERY
        objective, gap = _gap(x, y, weight, strength, loss)
    if gap > bound:
        raise RunError(
            f"prune.fista: after {done} iterations the gap is {gap:.3g}, above {bound:.3g}: raise iterations or "
            "tolerance, or bring the inputs to a common scale"
        )
    return Solution(weight, objective, gap, done)


def _residual(x: Tensor, y: Tensor, weight: Tensor, loss: str) -> Tensor:
    """Return minus the derivative of each sample's loss by its output, (n,)."""
    output = x @ weight
    return y - output if loss == "squares" else y * torch.sigmoid(-y * output)


def _gap(x: Tensor, y: Tensor, weight: Tensor, strength: float, loss: str) -> tuple[float, float]:
    """Return the objective, and how far above its minimum it is at most."""
    n, residual = len(y), _residual(x, y, weight, loss)
    highest = float((x.T @ residual).abs().max()) / n
    dual = residual * min(1.0, strength / highest) if highest > 0 else residual
    if loss == "squares":
        value = float(residual.square().sum()) / (2 * n)
        least = float(y.square().sum() - (y - dual).square().sum()) / (2 * n)
    else:
        value = float(torch.nn.functional.softplus(-y * (x @ weight)).mean())
        share = (y * dual).clamp(0, 1)
        least = float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean())
    objective = value + strength * float(weight.abs().sum())
    return objective, max(0.0, objective - least)


def _checked(
    inputs: Tensor, target: Tensor, strength: float, loss: str, tolerance: float
) -> tuple[Tensor, Tensor]:
    if loss not in LOSSES:
        raise InputError(f"prune.fista: loss='{loss}' must be one of {', '.join(LOSSES)}.{nearest(loss, LOSSES)}")
    for name, value in (("strength", strength), ("tolerance", tolerance)):
        if not is_number(value) or not 0 < value < math.inf:
            raise InputError(f"prune.fista: {name}={value!r} must be a number above 0")
    x, y = torch.as_tensor(inputs).double(), torch.as_tensor(target).double()
    if x.dim() != 2 or y.dim() != 1 or len(x) != len(y) or not x.numel():
        raise InputError(
            f"prune.fista: inputs must be (n, features) and target (n,), and they are {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise InputError("prune.fista: inputs and target must be finite: look for NaN in them")
    if loss == "logistic" and not bool((y.abs() == 1).all()):
        raise InputError(
            "prune.fista: the target of the logistic loss must be -1 and 1; 2 * target - 1 of 0 and 1"
        )
    return x, y
