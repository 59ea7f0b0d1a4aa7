"""Dynamic network surgery: weights that are out go on learning, and come back where they have grown large.

A weight that is out computes as zero, and the gradient there moves the value that is set aside. So that weights
near the edge do not flicker, one that is out must be a tenth larger than one that stays (the two thresholds a <
b of the source; here they follow from the ratio that is due).

Source: Guo, Yao and Chen, "Dynamic network surgery for efficient DNNs", NeurIPS 2016, equations 3 and 4,
arXiv:1608.04493.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune._sparse.criteria.criterion import Criterion

MARGIN = 1.1


def importance(weight: Tensor, stays: Tensor, score: Tensor | None) -> Tensor:
    """Return |w|, of weights that are out a tenth less.

    >>> importance(torch.tensor([1.0, 1.1]), torch.tensor([True, False]), None)
    tensor([1., 1.])
    """
    return torch.where(stays, weight.abs(), weight.abs() / MARGIN)


dynamic_surgery = Criterion(importance, sets_aside=True, trains_aside=True)
