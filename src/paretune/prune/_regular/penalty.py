"""The penalty on weights, strength * sum |w|^r with r of 1 or 2, and the proximal step of the first.

Sources: Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B 58, 1996; Parikh and Boyd,
    "Proximal algorithms", 2014, section 6.5.2 (soft thresholding).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

POWERS = {"l1": 1, "l2": 2}
"""The exponent r of each norm: `l2` is the sum of squares, without a root."""


def penalty(parameters: Iterable[Tensor], norm: str) -> Tensor:
    """Return sum |w|^r over all entries, a float32 scalar with a gradient; the gradient of |0| is 0.

    >>> float(penalty([torch.tensor([3.0, -4.0])], "l1")), float(penalty([torch.tensor([3.0, -4.0])], "l2"))
    (7.0, 25.0)
    """
    terms = [
        tensor.float().abs().sum() if POWERS[norm] == 1 else tensor.float().square().sum() for tensor in parameters
    ]
    return torch.stack(terms).sum()


def soft_threshold(parameters: Sequence[Tensor], by: float) -> None:
    """Move every entry towards zero by an amount, in place, and no further: sign(w) max(|w| - by, 0).

    >>> weight = torch.tensor([0.5, -0.25, 0.75])
    >>> soft_threshold([weight], 0.25)
    >>> weight
    tensor([0.2500, 0.0000, 0.5000])
    """
    with torch.no_grad():
        clipped = [tensor.clamp(-by, by) for tensor in parameters]
        torch._foreach_sub_(list(parameters), clipped)
