"""Learning-rate schedules: linear warm-up, then constant or half a cosine.

Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5 without restarts, arXiv:1608.03983.
Warm-up: Goyal et al., arXiv:1706.02677, section 2.2, from a first step that is small but not zero.
"""

from __future__ import annotations

import math


def rate(step: int, total: int, *, lr: float, warmup: int = 0, schedule: str = "cosine") -> float:
    """Return the learning rate of one optimizer step.

    step: 0 ... total - 1, over all epochs. warmup: steps that climb to `lr` in equal parts.
    Cosine falls from `lr` at the first step after warm-up to just above 0 at the last.

    >>> [round(rate(step, 6, lr=1.0, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return lr * ((step + 1) / warmup)  # in this order the last step of the climb is exactly lr
    if schedule == "constant":
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
