"""SparseGPT's saliency: the error of a reader's output if a weight goes and the other weights make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023,
section 3, arXiv:2301.00774.
Needs data, no labels, and no gradient. Only the score: weights are not updated here. Summed over a unit, as that
paper does to choose N:M patterns, it takes each weight of the unit as the only one that goes; `obc` takes them all
together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune._float64 import in_float64

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a fraction of its mean; the paper's value."""


def sparsegpt(weight: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """Score every unit by the sum of w^2 / [H^-1]_qq over its weights.

    weight: (in, out, *kernel), the reading weight with what it reads first.
    inverse_diagonal: of any shape that broadcasts to the weight's, such as (in, 1, *kernel): the diagonal of the
        inverse of the damped second moment H = E[x x'] of what the weights multiply, see `inverse_diagonal`.
    Returns (in,) float32, in the unit of the reader's squared output: readers do not compare.

    >>> sparsegpt(torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[2.0], [0.5]]))
    tensor([2.5000, 0.5000])
    """
    return (weight.float().square() / inverse_diagonal.float().to(weight.device)).flatten(1).sum(dim=1)


def damped(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return a second moment (d, d) in float64, with a fraction of its mean diagonal added to the diagonal."""
    out = in_float64(hessian).clone()
    diagonal = out.diagonal()
    diagonal += max(damping * float(diagonal.mean()), torch.finfo(torch.float32).tiny)
    return out


def damped_inverse(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the inverse of a damped second moment (d, d), in float64; NaN throughout where it holds NaN."""
    factor, failed = torch.linalg.cholesky_ex(damped(hessian, damping))
    return torch.full_like(factor, torch.nan) if int(failed) else torch.cholesky_inverse(factor)


def inverse_diagonal(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the diagonal (d,) of the inverse of a damped second moment (d, d)."""
    return damped_inverse(hessian, damping).diagonal()
