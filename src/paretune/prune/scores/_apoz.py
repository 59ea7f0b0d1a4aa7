"""APoZ: a channel that is mostly zero after its ReLU says little.

Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures", 2016,
section 3.1, arXiv:1607.03250.
Needs data, no labels. Only for activations that are exactly zero when they do not fire (ReLU): after GELU or SiLU
every channel scores 1.
"""

from __future__ import annotations

from torch import Tensor


def apoz(activation: Tensor) -> Tensor:
    """Score every channel by 1 - its average percentage of zeros: the fraction of samples and positions that fire.

    activation: (samples, channels, *positions), what the next layer reads.
    Returns (channels,) float32 from 0 to 1; layers compare as they are.

    >>> import torch
    >>> apoz(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([0.0000, 0.5000])
    """
    return (activation != 0).transpose(0, 1).flatten(1).float().mean(dim=1)
