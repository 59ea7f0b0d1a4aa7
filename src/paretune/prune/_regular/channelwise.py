"""What penalties on whole channels share: a model to train, its channels, and the cut at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from paretune.errors import InfeasibleError
from paretune.prune._analysis import Analysis, analyze, only, require_groups
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._channels import repaired
from paretune.prune._couplings.groups import Group
from paretune.prune._cut import Pruned, Selection, check_form
from paretune.prune._hand_over import hand_over
from paretune.prune._learned.places import Places, places_of
from paretune.prune._probe import cut_what_can_be, followed
from paretune.prune._ranking import ordered
from paretune.prune._regular.slices import Slices
from paretune.prune._selection.goal import Goal
from paretune.prune._selection.selection import to_target, unprotected
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context
from paretune.train import FitResult

if TYPE_CHECKING:
    from paretune.task import Task


@dataclass(frozen=True)
class Channelwise:
    """A copy of a model that is to be trained in place, and its channels."""

    analysis: Analysis
    places: Places
    slices: Slices
    goal: Goal

    @property
    def model(self) -> nn.Module:
        """The copy."""
        return self.analysis.model

    def lowest(self, analysis: Analysis) -> Selection:
        """Return what goes: of all groups together the channels of the smallest weights, in root mean square."""
        root = (self.slices.squares().detach() / self.slices.sizes).sqrt().cpu().double().numpy()
        groups = [g for g in analysis.groups if (self.places.of_unit[g.blocks] < self.places.count).all()]
        ranked = ordered(analysis.couplings, groups, [root[self.places.of_unit[g.blocks]] for g in groups])
        return to_target(analysis, ranked, self.goal.of(analysis))

    def cut(
        self,
        choose: Callable[[Analysis], Selection],
        fitted: FitResult,
        task: Task,
        context: Context,
        *,
        form: str,
        repair: int,
        recalibrate: int,
    ) -> Trained:
        """Cut the trained model, repair what is kept or recalibrate batch norm."""
        analysis, selection, pruned = cut_what_can_be(self.analysis, choose, form)
        if repair:
            pruned = repaired(analysis, selection, pruned, task.data("train"), samples=repair, seed=context.seed)
        elif recalibrate:
            hand_over(pruned.model, task, context, recalibrate=recalibrate)
        values = {field.name: getattr(pruned, field.name) for field in fields(Pruned)}
        values["notes"] = (*fitted.notes, *pruned.notes)
        return Trained(**values, fitted=replace(fitted, model=pruned.model))


def channelwise(
    model: nn.Module, task: Task, goal: Goal, *, protect: Iterable[str], structures: Iterable[str], form: str
) -> Channelwise:
    """Analyse a copy of a model; a goal out of reach is told before anything is trained."""
    check_form(form)
    model = given(model)
    require_values(model)
    analysis = only(analyze(copied(model).cpu(), task.inputs()), structures)
    if form == "module":
        analysis = followed(analysis)
    require_groups(analysis)
    groups: tuple[Group, ...] = unprotected(analysis, protect)
    if not groups:
        raise InfeasibleError(f"{goal.who}: all channels are protected, and nothing was trained; protect fewer")
    places = places_of(groups, analysis.couplings.units)
    made = Channelwise(analysis, places, Slices(analysis, places), goal)
    made.lowest(analysis)
    return made


def chosen_by(selection: Selection, places: Places) -> np.ndarray:
    """Return (units,) bool: which units of the places a selection removes."""
    chosen = np.zeros(places.count + 1, bool)
    chosen[places.of_unit[selection.removed]] = True
    return chosen[:-1]
