"""L2 score: the Euclidean norm of each output channel.

He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018,
arXiv:1808.06866.
Needs no data. Against `l1` it lets a few large weights speak for a channel; the two seldom rank differently.
"""

from __future__ import annotations

import torch
from torch import Tensor


def l2(weight: Tensor) -> Tensor:
    """Score every output channel by the Euclidean norm of its weights.

    weight: (out, in, *kernel), any arrangement whose first axis is the unit.
    Returns (out,) float32, in the unit of the weights: layers of different fan-in do not compare.

    >>> l2(torch.tensor([[3.0, -4.0], [0.0, 0.5]]))
    tensor([5.0000, 0.5000])
    """
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1).float(), dim=1)
    return norms
