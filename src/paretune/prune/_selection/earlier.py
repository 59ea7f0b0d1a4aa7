"""What earlier rounds took: ratios in rounds are of the model that came into the first."""

from __future__ import annotations

from torch import nn

from paretune.prune._analysis import Analysis
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.parts import tensor_of


def went_of(analysis: Analysis, group: Group, size: int, whole: nn.Module | None) -> int:
    """Return how many of a group's bundles went since `whole`, of which it has `size` now.

    A layer that `whole` does not have (the code was rewritten, or layers were merged) counts as never cut.
    """
    if whole is None:
        return 0
    made = group.makes[0]
    try:
        before = tensor_of(whole, made.tensor).shape[made.axis]
    except (AttributeError, IndexError):
        return 0
    now = tensor_of(analysis.model, made.tensor).shape[made.axis]
    return max(0, round(size * before / now) - size)


def still_to_go(ratio: float, size: int, went: int) -> int:
    """Return how many of `size` units go, so that of all that there were this part is gone, rounded down.

    >>> still_to_go(0.5, 6, 0), still_to_go(0.5, 5, 1), still_to_go(0.5, 2, 4)
    (3, 2, 0)
    """
    return max(0, int(ratio * (size + went) + 1e-9) - went)
