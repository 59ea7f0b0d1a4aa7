"""Probe: which groups the model's own code follows, tried on copies, where the user's own class is asked for.

The same finds the groups whose cut the rewritten graph gets wrong, should a rule of ours be mistaken.

One bundle of every group is removed, as far as no axis is emptied by it; where the model fails or computes
something else than the masked model, the groups are halved until the culprits are found. Those are pinned, with
what went wrong. Of a group whose units do not all lie on the same tensors (zeros that a shortcut pads with, the
range that a slice reads) each kind is tried by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paretune.prune._analysis import Analysis, with_groups
from paretune.prune._couplings.couplings import every_axis
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.units import Axis
from paretune.prune._cut import Pruned, Selection, cut
from paretune.prune._deliver import NotFollowedError, WrongGraphError, deliver, require_own_forward
from paretune.prune._ranking import anchors

_REMEDY = (
    "sizes taken from the tensor (x.shape[1], -1) where they are written in the code, "
    'or the rewritten graph: form="auto"'
)


def followed(analysis: Analysis) -> Analysis:
    """Return the analysis with the groups alone that the model's own code follows."""
    require_own_forward(analysis)
    return _Probe(analysis, "module", "the model's own forward does not follow", _REMEDY).sound()


def rewritten(analysis: Analysis) -> Analysis:
    """Return the analysis with the groups alone whose cut the rewritten graph computes as it must."""
    reason = "the rewritten graph would be wrong, a mistake of paretune: please report the model"
    return _Probe(analysis, "graph", reason, "a rule of paretune that is mended").sound()


def cut_what_can_be(
    analysis: Analysis, choose: Callable[[Analysis], Selection], form: str
) -> tuple[Analysis, Selection, Pruned]:
    """Choose and cut; should the cut turn out wrong, choose and cut again without the groups that make it wrong.

    Returns the analysis that was chosen from as well.
    """
    selection = choose(analysis)
    try:
        return analysis, selection, cut(analysis, selection, form=form)
    except WrongGraphError as error:
        left = rewritten(analysis)
        layers = {layer for group in analysis.groups for layer in group.layers}
        layers -= {layer for group in left.groups for layer in group.layers}
        if not layers:
            raise
        selection = choose(left)
        pruned = cut(left, selection, form=form)
        note = (
            f"left whole by a mistake of paretune (please report the model): {', '.join(sorted(layers))}: "
            f"{error.problem}"
        )
        return left, selection, replace(pruned, notes=(*pruned.notes, note))


@dataclass(frozen=True)
class _Probe:
    """Tries cuts of one form, and pins what fails, with the reason and what went wrong."""

    analysis: Analysis
    form: str
    reason: str
    remedy: str

    def sound(self) -> Analysis:
        """Return the analysis with the groups alone whose cuts can be delivered, all of them together too."""
        kinds = _kinds(self.analysis)
        parts = [part for group in self.analysis.groups for part in _parts(group, kinds)]
        problem = self.failure(parts) if parts else None
        good = parts if problem is None else self.halved(parts, problem)
        sound: list[Group] = []
        if problem is not None and good and self.failure(good) is not None:
            for part in good:  # those that pass alone or in halves must also pass together
                problem = self.failure([*sound, part])
                if problem is None:
                    sound.append(part)
                else:
                    self.pin(part, problem)
            good = sound
        return with_groups(self.analysis, _joined(self.analysis, good))

    def halved(self, groups: list[Group], problem: str) -> list[Group]:
        """Return the groups that pass, of some that fail together."""
        if len(groups) == 1:
            self.pin(groups[0], problem)
            return []
        half = len(groups) // 2
        return [group for part in (groups[:half], groups[half:]) for group in self.passing(part)]

    def passing(self, groups: list[Group]) -> list[Group]:
        """Return the groups that pass."""
        problem = self.failure(groups)
        return groups if problem is None else self.halved(groups, problem)

    def failure(self, groups: list[Group]) -> str | None:
        """Remove a bundle of each group from a copy, and return what goes wrong, or None."""
        left = groups
        for order in (1, -1):  # what had to stay, so that no axis is emptied, goes the second time
            removed, left = self.one_of_each(groups, left, order)
            try:
                deliver(self.analysis, self.analysis.keep(removed), self.form)
            except (NotFollowedError, WrongGraphError) as error:
                return error.problem
            if not left:
                break
        return None

    def one_of_each(self, groups: list[Group], wanted: list[Group], order: int) -> tuple[Axis, list[Group]]:
        """Return a bundle of each group that can go at once, and the wanted groups of which none can."""
        places = [
            np.broadcast_to(
                order * (np.arange(float(group.blocks.shape[1])) * len(groups) + index), group.blocks.shape
            )
            for index, group in enumerate(groups)
        ]
        stay = anchors(self.analysis.couplings, groups, places)
        removed, left = [np.empty(0, np.int64)], list[Group]()
        for group in groups:
            free = np.flatnonzero(~stay[group.blocks].any(axis=0))
            if len(free):
                removed.append(group.blocks[:, free[0]])
            elif any(group is one for one in wanted):
                left.append(group)
        return np.concatenate(removed), left

    def pin(self, group: Group, problem: str) -> None:
        """State that a group cannot be cut."""
        units = self.analysis.couplings.units
        units.pin(group.blocks, units.reason(f"{self.reason}: {problem}", self.remedy))


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
