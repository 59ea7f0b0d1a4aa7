"""Batch-norm scale: the factor that the norm behind a layer puts on each channel.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 3,
arXiv:1708.06519.
Needs no data. It tells most after training with an L1 penalty on the scales, as the paper does; without it many
scales are alike. Channels that no norm with a scale follows are not scored and stay.
"""

from __future__ import annotations

from torch import Tensor


def bn_scale(bn_weight: Tensor) -> Tensor:
    """Score every channel by the absolute scale of its norm.

    bn_weight: (channels,), the `weight` of a batch, group, instance, layer or RMS norm.
    Returns (channels,) float32; layers compare as they are, since what a batch norm scales has variance 1.

    >>> import torch
    >>> bn_scale(torch.tensor([0.5, -1.0]))
    tensor([0.5000, 1.0000])
    """
    return bn_weight.abs().float()
