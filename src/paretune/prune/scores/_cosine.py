"""Cosine redundancy: a filter that points where a stronger one points adds little.

Ayinde and Zurada, "Building Efficient ConvNets using Redundant Feature Pruning", 2018, section 3,
arXiv:1802.07653.
Needs no data. The paper clusters filters by cosine similarity and keeps one of each cluster; this is the same
without its threshold: of two filters that are alike, the weaker is redundant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cosine(weight: Tensor) -> Tensor:
    """Score every output channel by 1 - its largest cosine similarity to a channel of larger norm.

    weight: (out, in, *kernel).
    Returns (out,) float32 from 0 (a copy of a stronger one) to 2; the strongest of all scores 2. No unit: layers
    compare as they are. Of exact copies the first counts as the stronger.

    >>> cosine(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    tensor([0., 2., 1.])
    """
    flat = weight.flatten(1).float()
    norms = torch.linalg.vector_norm(flat, dim=1)
    strength = torch.argsort(norms, descending=True, stable=True).argsort()
    unit = functional.normalize(flat)
    similar = (unit @ unit.T).masked_fill(strength[:, None] <= strength[None], -1.0)
    return (1 - similar.amax(dim=1)).clamp(0, 2)
