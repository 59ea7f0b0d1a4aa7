"""L1 score: the sum of absolute weights of each output channel.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1, arXiv:1608.08710.
Needs no data. It takes a small weight for a useless one; where inputs differ in scale, a score that sees the
gradient is the better judge.
"""

from __future__ import annotations

import torch
from torch import Tensor


def l1(weight: Tensor) -> Tensor:
    """Score every output channel by the sum of its absolute weights; the lowest is the first to go.

    weight: (out, in, *kernel), the layout of nn.Linear and nn.Conv2d.
    Returns (out,) float32, in the unit of the weights: layers of different fan-in do not compare.

    >>> l1(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))
    tensor([3.0000, 0.5000])
    """
    return weight.abs().flatten(1).sum(dim=1, dtype=torch.float32)
