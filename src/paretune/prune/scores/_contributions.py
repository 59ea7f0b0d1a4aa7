"""What each channel contributes to the output of the layer that reads it, as a Gram matrix."""

from __future__ import annotations

from torch import Tensor

from paretune.prune._float64 import in_float64


def gram_of_contributions(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return G, G[a, b] = E<W_a x_a, W_b x_b>: inner products of what units a and b add to the reader's output.

    weight: (units, out, *within). hessian: (units * within, units * within), E[x x'], the unit outermost.
    Returns (units, units) float64. The squared output without a set T of units differs by 1_T' G 1_T.
    """
    units, outputs = weight.shape[:2]
    rows = in_float64(weight).reshape(units, outputs, -1).transpose(1, 2).reshape(-1, outputs)
    products = (rows @ rows.T) * in_float64(hessian)
    within = len(products) // units
    return products.reshape(units, within, units, within).sum(dim=(1, 3))
