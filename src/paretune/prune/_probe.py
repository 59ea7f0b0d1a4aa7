"""Probe: which groups the model's own code follows, tried on copies. Only where the user's own class is asked for.

One bundle of every group is removed; where the model's forward fails or computes something else than the masked
model, the groups are halved until the culprits are found. Those are pinned, with what went wrong. Of a group whose
units do not all lie on the same tensors (zeros that a shortcut pads with, the range that a slice reads) each kind
is tried by itself.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from paretune.prune._analysis import Analysis, with_groups
from paretune.prune._couplings.couplings import every_axis
from paretune.prune._couplings.groups import Group
from paretune.prune._deliver import NotFollowedError, deliver, require_own_forward

_REMEDY = (
    "sizes taken from the tensor (x.shape[1], -1) where they are written in the code, "
    'or the rewritten graph: form="auto"'
)


def followed(analysis: Analysis) -> Analysis:
    """Return the analysis with the groups alone that the model's own code follows."""
    require_own_forward(analysis)
    kinds = _kinds(analysis)
    parts = [part for group in analysis.groups for part in _parts(group, kinds)]
    problem = _failure(analysis, parts) if parts else None
    good = parts if problem is None else _halved(analysis, parts, problem)
    sound: list[Group] = []
    if problem is not None and good and _failure(analysis, good) is not None:
        for part in good:  # those that pass alone or in halves must also pass together
            problem = _failure(analysis, [*sound, part])
            if problem is None:
                sound.append(part)
            else:
                _pin(analysis, part, problem)
        good = sound
    return with_groups(analysis, _joined(analysis, good))


def _kinds(analysis: Analysis) -> NDArray[np.uint64]:
    """Return a number for every unit, equal for units that lie on the same tensors equally often."""
    state = analysis.couplings
    random = np.random.default_rng(0)
    kinds = np.zeros(state.units.count, np.uint64)  # sums of one random number an axis: these wrap around
    for axis in {id(axis): axis for value in state.values.values() for axis in every_axis(value)}.values():
        units = state.units.factors(axis)
        np.add.at(kinds, units[units >= 0], random.integers(2**63, dtype=np.uint64))
    return kinds


def _parts(group: Group, kinds: NDArray[np.uint64]) -> list[Group]:
    """Take a group apart into units of one kind; equal parts that must stay so are left as they are."""
    if len(group.blocks) > 1:
        return [group]
    mine = kinds[group.blocks[0]]
    return [replace(group, blocks=group.blocks[:, mine == kind]) for kind in dict.fromkeys(mine.tolist())]


def _joined(analysis: Analysis, parts: list[Group]) -> list[Group]:
    """Put the parts of each group together again, those that are left of it."""
    members: dict[int, list[Group]] = defaultdict(list)
    for part in parts:
        members[id(part.makes)].append(part)
    found = []
    for some in members.values():
        blocks = np.concatenate([part.blocks for part in some], axis=1)
        first = analysis.couplings.units.factors(some[0].makes[0].units)
        prunable = int(np.isin(first, blocks).any(axis=1).sum())
        found.append(replace(some[0], blocks=blocks, prunable=prunable))
    return found


def _following(analysis: Analysis, groups: list[Group]) -> list[Group]:
    problem = _failure(analysis, groups)
    return groups if problem is None else _halved(analysis, groups, problem)


def _halved(analysis: Analysis, groups: list[Group], problem: str) -> list[Group]:
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
    except NotFollowedError as error:
        return error.problem
    return None


def _pin(analysis: Analysis, group: Group, problem: str) -> None:
    units = analysis.couplings.units
    units.pin(group.blocks, units.reason(f"the model's own forward does not follow: {problem}", _REMEDY))
