"""SNIP: the sensitivity of the loss to each connection, summed over a channel.

Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, section 4.1,
arXiv:1810.02340.
Made for networks before training. Against `taylor` the terms of a channel cannot cancel. The paper divides by the
sum over all weights, which changes no rank and is left out.
"""

from __future__ import annotations

from torch import Tensor


def snip(weight: Tensor, grad: Tensor) -> Tensor:
    """Score every output channel by the sum of |w * dL/dw|.

    weight, grad: (out, in, *kernel), the weight and the gradient of the loss by it.
    Returns (out,) float32, in the unit of the loss: layers compare as they are.

    >>> import torch
    >>> snip(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([3., 4.])
    """
    return (weight.float() * grad.float()).abs().flatten(1).sum(dim=1)
