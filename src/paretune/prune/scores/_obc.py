"""OBC's saliency: the error of a reader's output if a whole channel goes and the other weights make up for it.

Frantar, Singh and Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training Quantization and
Pruning", NeurIPS 2022, section 4, arXiv:2208.11580.
Needs data, no labels, and no gradient. Only the score of each channel as if it alone went; the weights are not
updated here. With one weight for each output and channel (a linear layer) it equals `sparsegpt`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune._float64 import in_float64
from paretune.prune.scores._sparsegpt import DAMPING, damped_inverse


def obc(weight: Tensor, hessian: Tensor, *, damping: float = DAMPING) -> Tensor:
    """Score every unit P by the sum over outputs of w_P' ([H^-1]_PP)^-1 w_P.

    weight: (units, out, *within), the reading weight with what it reads first; `within` is the kernel.
    hessian: (units * within, units * within), the second moment E[x x'] of what the weights multiply, the unit
        outermost.
    damping: fraction of the mean diagonal that is added to the diagonal.
    Returns (units,) float32, in the unit of the reader's squared output: readers do not compare.

    >>> obc(torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[0.5, 0.0], [0.0, 2.0]]), damping=0)
    tensor([2.5000, 0.5000])
    """
    units = len(weight)
    rows = in_float64(weight).reshape(units, weight.shape[1], -1)
    within = rows.shape[2]
    inverse = damped_inverse(hessian, damping)
    every = torch.arange(units, device=rows.device)
    blocks = inverse.reshape(units, within, units, within)[every, :, every, :]
    return torch.einsum("uow,uwv,uov->u", rows, torch.linalg.inv(blocks), rows).float()
