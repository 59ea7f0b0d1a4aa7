"""Wanda: weights times the norm of what they multiply.

Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, section 3,
arXiv:2306.11695.
Needs data, no labels, and no gradient. The paper compares weights within each output; for a whole channel its
numbers are summed over the weights that read it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wanda(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Score every channel that is read by the sum of |w| * |x|, over the weights that read it.

    weight: (in, out, *kernel), the reading weight with what it reads first.
    input_norm: of any shape that broadcasts to the weight's, such as (in, 1, *ones): the root mean square over
        samples of the Euclidean norm over positions of what each weight multiplies.
    Returns (in,) float32, in the unit of the reader's output: readers of unlike size do not compare.

    >>> wanda(torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[2.0], [4.0]]))
    tensor([6., 2.])
    """
    return (weight.float().abs() * input_norm.float()).flatten(1).sum(dim=1, dtype=torch.float32)
