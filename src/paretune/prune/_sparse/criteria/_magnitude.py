"""Magnitude: the smallest weights go, and what is out stays out.

Source: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015,
arXiv:1506.02626; Zhu and Gupta, 2017, arXiv:1710.01878.
"""

from __future__ import annotations

from torch import Tensor

from paretune.prune._sparse.criteria.criterion import Criterion


def importance(weight: Tensor, stays: Tensor, score: Tensor | None) -> Tensor:
    """Return |w|; of a weight that is out it is 0.

    >>> import torch
    >>> importance(torch.tensor([-2.0, 1.0]), torch.tensor([True, True]), None)
    tensor([2., 1.])
    """
    return weight.abs()


magnitude = Criterion(importance)
