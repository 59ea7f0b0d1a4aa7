"""Group lasso over coupled channels: training shrinks whole channels, and the smallest are cut.

    loss + strength * sum over channels sqrt(n) ||w||

where w are all n weights that go with a channel: those that make it in every layer that it is coupled to, those
of its norms, and those that read it. The norm is not squared, so that small channels are pulled as hard as large
ones and go to nothing together. Then those with the smallest root mean square go, over all layers, until the
goal is met.

Sources: Yuan and Lin, "Model selection and estimation in regression with grouped variables", JRSS B 68, 2006;
    Wen et al., "Learning structured sparsity in deep neural networks", NeurIPS 2016, arXiv:1608.03665; over
    coupled layers: Fang et al., "DepGraph: towards any structural pruning", CVPR 2023, arXiv:2301.12900, section
    3.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from torch import Tensor, nn

from paretune.errors import InputError, check_whole, is_number
from paretune.prune._regular.channelwise import channelwise
from paretune.prune._regular.fields import TrainAndCut, told
from paretune.prune._regular.slices import Slices
from paretune.prune._selection.goal import Goal
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context, Range, StepResult
from paretune.train import fit
from paretune.train._objective import task_objective
from paretune.train._training import training_of

if TYPE_CHECKING:
    from paretune.task import Task

TINY = 1e-12
"""Added to a sum of squares before its root, whose slope at 0 has no end."""


def group_norms(slices: Slices) -> Tensor:
    """Return sum over channels sqrt(n) ||w||, a scalar with a gradient."""
    squares = slices.squares()
    return ((squares + TINY).sqrt() * slices.sizes.to(squares.device).sqrt()).sum()


def group_lasso(
    model: nn.Module,
    task: Task,
    *,
    ratio: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    strength: float = 1e-5,
    protect: Iterable[str] = (),
    structures: Iterable[str] = (),
    form: str = "auto",
    repair: int = 512,
    recalibrate: int = 512,
    context: Context | None = None,
    **training: Any,
) -> Trained:
    """Train a copy of a model under a group lasso over its channels, and cut the smallest; the model stays as it
    is.

    Give exactly one of ratio (the fraction of channels to remove) and macs, params (what to keep: 0.5 or "20M").
    strength: lambda, for the sum over all channels that may be removed.
    protect, structures, form: as `prune.channels` takes them. repair, recalibrate: as its step does.
    training: epochs, lr, ... as `train.fit` takes them; the weights of the last epoch are cut.
    """
    check_strength(strength)
    check_whole("prune.group_lasso: repair", repair, least=0)
    check_whole("prune.group_lasso: recalibrate", recalibrate, least=0)
    settings = training_of("prune.group_lasso", training)
    goal = Goal(who="prune.group_lasso", ratio=ratio, macs=macs, params=params)
    context = context or Context()
    made = channelwise(model, task, goal, protect=protect, structures=structures, form=form)
    own = task_objective(task, settings.label_smoothing)

    def objective(student: nn.Module, inputs: Any, target: Any) -> dict[str, Tensor]:
        return own(student, inputs, target) | {"group_lasso": strength * group_norms(made.slices)}

    fitted = fit(
        made.model, task, **{name: getattr(settings, name) for name in training}, objective=objective,
        objective_key=json.dumps({"group_lasso": strength, "channels": made.places.labels}), keep_best=False,
        context=context,
    )  # fmt: skip
    return made.cut(made.lowest, fitted, task, context, form=form, repair=repair, recalibrate=recalibrate)


def check_strength(strength: float) -> None:
    """Raise an error that says what is wrong with a strength."""
    if not is_number(strength) or not 0 <= strength < float("inf"):
        raise InputError(f"prune.group_lasso: strength={strength!r} must be a number of at least 0")


@final
@dataclass(frozen=True, kw_only=True)
class GroupLasso(TrainAndCut):
    """Train under a group lasso that shrinks whole channels, then cut the smallest and repair what is kept.

    Without a goal, half of the multiply-accumulates stay.
    """

    name: ClassVar[str] = "prune.group_lasso"

    strength: Annotated[float, Range(0.0, 1e6)] = 1e-5
    """What the sum of the norms of all channels is multiplied by: lambda."""

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Train and cut; the training's curve is in `details`."""
        return told(group_lasso(model, task, **self.parameters(), context=context), context)
