"""Probe: which groups the model's own code follows, tried on copies. Only where the user's own class is asked for.

One bundle of every group is removed; where the model's forward fails or computes something else than the masked
model, the groups are halved until the culprits are found. Those are pinned, with what went wrong.
"""

from __future__ import annotations

import numpy as np

from paretune.errors import SurgeryError
from paretune.prune._analysis import Analysis, with_groups
from paretune.prune._deliver import deliver
from paretune.prune._groups import Group

_REMEDY = (
    "sizes taken from the tensor (x.shape[1], -1) where they are written in the code, "
    'or the rewritten graph: form="auto"'
)


def followed(analysis: Analysis) -> Analysis:
    """Return the analysis with the groups alone that the model's own code follows."""
    good = _following(analysis, list(analysis.groups))
    sound: list[Group] = []
    if len(good) < len(analysis.groups) and good and _failure(analysis, good) is not None:
        for group in good:  # those that pass alone or in halves must also pass together
            problem = _failure(analysis, [*sound, group])
            if problem is None:
                sound.append(group)
            else:
                _pin(analysis, group, problem)
        good = sound
    return with_groups(analysis, good)


def _following(analysis: Analysis, groups: list[Group]) -> list[Group]:
    problem = _failure(analysis, groups) if groups else None
    if problem is None:
        return groups
    if len(groups) == 1:
        _pin(analysis, groups[0], problem)
        return []
    half = len(groups) // 2
    return [group for part in (groups[:half], groups[half:]) for group in _following(analysis, part)]


def _failure(analysis: Analysis, groups: list[Group]) -> str | None:
    """Remove the first bundle of each group from a copy, and return what goes wrong, or None."""
    removed = np.concatenate([group.blocks[:, 0] for group in groups])
    try:
        deliver(analysis, analysis.keep(removed), "module")
    except SurgeryError as error:
        return str(error).partition("this cut: ")[2].partition(". Take sizes")[0]
    return None


def _pin(analysis: Analysis, group: Group, problem: str) -> None:
    units = analysis.couplings.units
    units.pin(group.blocks, units.reason(f"the model's own forward does not follow: {problem}", _REMEDY))
