"""Gradient norm: how strongly the loss pulls at a channel.

Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
arXiv:1611.06440.
That paper's criterion (`taylor`) is this gradient times the activation; here it stands alone, as it did before.
With a threshold T: channels whose score is above T stay, the others go, and the kernels that stay are packed into
a new, smaller one. A channel at which the loss does not pull may be one that is already right, not one that is not
needed, so after training to the end `taylor` is the better judge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune.scores._of import side


def gradient_norm(output_grad: Tensor | None = None, grad: Tensor | None = None, *, of: str = "output") -> Tensor:
    """Score every output channel c by the sum of |dL/dA_c| over samples and positions, or of |dL/dW_c|.

    output_grad: (samples, out, *positions), gradient of the loss by what the layer gives; used where of="output".
    grad: (out, in, *kernel), gradient of the loss by the weight; used where of="weight".
    Returns (out,) float32, in the unit of the loss over that of the output (or of the weight).

    >>> gradient_norm(torch.tensor([[[1.0, -2.0], [0.0, 0.5]]]))  # 1 sample, 2 channels, 2 positions
    tensor([3.0000, 0.5000])
    """
    (gradient,) = side("gradient_norm", of, output={"output_grad": output_grad}, weight={"grad": grad})
    channels = gradient.transpose(0, 1) if of == "output" else gradient
    return channels.abs().flatten(1).sum(dim=1, dtype=torch.float32)
