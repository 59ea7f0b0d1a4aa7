"""RigL: at every choice some of the smallest weights are exchanged for those with the largest gradient.

0.3 of the weights that stay are exchanged at the begin of the ramp and none at its end, after half a cosine. A
weight that comes back starts at zero: its gradient says how fast the loss would fall if it grew. The source
starts from a random sparse network with `ramp="one_shot"`; from a trained one any ramp will do.

Source: Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020, section 3 and algorithm 1,
arXiv:1911.11134.
"""

from __future__ import annotations

import math

from paretune.prune._sparse.criteria._magnitude import importance
from paretune.prune._sparse.criteria.criterion import Criterion

rigl = Criterion(importance, exchanged=0.3)


def decay(progress: float) -> float:
    """Return which part of the exchange is left: 1 at the begin of the ramp, 0 at its end.

    >>> [round(decay(progress), 3) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
