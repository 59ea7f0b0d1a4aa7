"""SynFlow: the part of a network's flow, all weights taken as positive, that runs through a channel.

Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020,
arXiv:2006.05467.
Needs no data and no loss. The paper prunes in a hundred rounds and scores anew in each; one call is one round, and
a recipe that lists `prune.channels` several times takes several. Norms count as their scales, and how attention
mixes as given: what only makes attention's scores is not scored and stays.
"""

from __future__ import annotations

from torch import Tensor


def synflow(weight: Tensor, flow_grad: Tensor) -> Tensor:
    """Score every output channel by the sum of |w| * d log R / d|w|.

    weight: (out, in, *kernel).
    flow_grad: like weight, d log R / d|w|, where R is the sum of the outputs of the network with every weight
        replaced by its absolute value, for an input of ones. The paper has dR/d|w|, which ranks alike.
    Returns (out,) float32, the fraction of the flow: in a chain of layers without biases each layer's sum is 1.

    >>> import torch
    >>> synflow(torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([[0.25, 0.25], [0.05, 0.1]]))
    tensor([0.7500, 0.2500])
    """
    return (weight.abs() * flow_grad).flatten(1).sum(dim=1).float()
