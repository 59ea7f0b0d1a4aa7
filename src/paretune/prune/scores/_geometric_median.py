"""Geometric median (FPGM): the filter nearest to all others is the one that they can stand in for.

He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
arXiv:1811.00250.
Needs no data. It removes what is redundant, not what is small; where most filters are near zero it keeps the odd
ones, as `l1` does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_median(weight: Tensor) -> Tensor:
    """Score every output channel by the sum of its Euclidean distances to all the others of its layer.

    weight: (out, in, *kernel).
    Returns (out,) float32, in the unit of the weights: layers of different fan-in do not compare.

    >>> geometric_median(torch.tensor([[0.0], [1.0], [5.0]]))
    tensor([6., 5., 9.])
    """
    flat = weight.flatten(1).float()
    return torch.cdist(flat, flat).sum(dim=1)
