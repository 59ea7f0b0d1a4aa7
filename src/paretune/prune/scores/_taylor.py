"""Taylor score: the change of the loss, to first order, if a channel is set to zero.

Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3, arXiv:1906.10771; of
the output: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
arXiv:1611.06440.
The 2019 paper squares the sum, which ranks alike. Neither form is rescaled layer by layer here: the loss is one
unit for all layers. Of a model at a minimum the mean gradient is about zero, and with it of="weight"; of="output"
takes the absolute value sample by sample and keeps its signal.
"""

from __future__ import annotations

from torch import Tensor

from paretune.prune.scores._of import side


def taylor(
    weight: Tensor | None = None,
    grad: Tensor | None = None,
    output: Tensor | None = None,
    output_grad: Tensor | None = None,
    *,
    of: str = "weight",
) -> Tensor:
    """Score every output channel by |sum w * dL/dw|, or by |sum over positions of A * dL/dA| summed over samples.

    weight, grad: (out, in, *kernel), the weight and the gradient of the loss by it; used where of="weight".
    output, output_grad: (samples, out, *positions), likewise of what the layer gives; used where of="output".
    Returns (out,) float32, in the unit of the loss: layers compare as they are.

    >>> import torch
    >>> taylor(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([1., 4.])
    """
    value, gradient = side(
        "taylor",
        of,
        output={"output": output, "output_grad": output_grad},
        weight={"weight": weight, "grad": grad},
    )
    change = value.float() * gradient.float()
    if of == "weight":
        return change.flatten(1).sum(dim=1).abs()
    samples, channels = change.shape[:2]
    return change.reshape(samples, channels, -1).sum(dim=2).abs().sum(dim=0)
