"""Criteria of gradual pruning, by name: what says which weights go, and whether they may come back."""

from paretune.prune._sparse.criteria._dynamic_surgery import dynamic_surgery
from paretune.prune._sparse.criteria._magnitude import magnitude
from paretune.prune._sparse.criteria._movement import movement
from paretune.prune._sparse.criteria._rigl import rigl
from paretune.prune._sparse.criteria.criterion import Criterion

__all__ = ["CRITERIA", "Criterion", "dynamic_surgery", "magnitude", "movement", "rigl"]

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "movement": movement,
    "dynamic_surgery": dynamic_surgery,
    "rigl": rigl,
}
