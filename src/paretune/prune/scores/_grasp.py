"""GraSP: how much the flow of gradients would lose with a channel.

Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
section 4, arXiv:2002.07376.
Made for networks before training. The paper's S = -w * Hg is the first to go where it is largest; here the sign
is turned, so that the lowest goes first as in every score. Its authors soften the logits by a temperature of 200;
here the loss is the caller's.
"""

from __future__ import annotations

from torch import Tensor


def grasp(weight: Tensor, hessian_grad: Tensor) -> Tensor:
    """Score every output channel by the sum of w * (H g), with H the Hessian and g the gradient of the loss.

    weight, hessian_grad: (out, in, *kernel).
    Returns (out,) float32, in the unit of the squared gradient's norm; a negative score is a channel without which
    gradients flow better.

    >>> import torch
    >>> grasp(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([-1.,  4.])
    """
    return (weight.float() * hessian_grad.float()).flatten(1).sum(dim=1)
