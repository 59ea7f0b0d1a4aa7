"""Fisher score: the increase of the loss, to second order, if a channel is set to zero.

Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, arXiv:1801.05787.
The Hessian is replaced by the Fisher information, so that the gradients of the samples, one by one, are all that
it takes; the first-order term is left out, as it vanishes at a minimum. For a well-trained model it is what
`taylor` is for one that is not.
"""

from __future__ import annotations

from torch import Tensor


def fisher(output: Tensor, output_grad: Tensor) -> Tensor:
    """Score every channel by 1/(2N) sum over samples n of (sum over positions of A_n * dL_n/dA_n)^2.

    output: (samples, out, *positions), what the layer gives.
    output_grad: like output, the gradient of the loss, which is the mean over these samples of L_n.
    Returns (out,) float32, in the unit of the loss: layers compare as they are.

    >>> import torch
    >>> fisher(torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[0.5, 1.0], [1.0, 3.0]]))
    tensor([1.2500, 4.0000])
    """
    samples, channels = output.shape[:2]
    own = samples * (output.float() * output_grad.float()).reshape(samples, channels, -1).sum(dim=2)
    return own.square().sum(dim=0) / (2 * samples)
