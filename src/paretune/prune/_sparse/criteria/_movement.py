"""Movement: weights that training moves towards zero go, however large they are; meant for fine-tuning.

The score of a weight is the sum over steps of -w dL/dw', w' being the weight as it computes (zero where it is
out): it grows where a step moves the weight away from zero. The gradient reaches the scores of weights that are
out, so that these may come back, with the value they had. (The learning rate of the scores is left out: it does
not change their order.)

Source: Sanh, Wolf and Rush, "Movement pruning: adaptive sparsity by fine-tuning", NeurIPS 2020, equations 2 to 4,
arXiv:2005.07683.
"""

from __future__ import annotations

from torch import Tensor

from paretune.prune._sparse.criteria.criterion import Criterion


def score(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return what a step adds to the score: -w dL/dw'.

    >>> import torch
    >>> score(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5]))
    tensor([-1.0000,  0.5000])
    """
    return -weight * gradient


def importance(weight: Tensor, stays: Tensor, score: Tensor | None) -> Tensor:
    """Return the score, of either sign."""
    assert score is not None
    return score


movement = Criterion(importance, score=score, sets_aside=True)
