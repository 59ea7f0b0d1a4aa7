"""Learned importance: every channel has a gate, the gates are trained under a budget, and what they closed is cut.

A gate is sigmoid(beta), one for channels that must be cut together, and is trained by the task's loss plus

    penalty * max(0, cost of the channels whose gates are above a half / budget - 1),

where the cost is what the budget is of: multiply-accumulates, parameters or channels, with the slope of the
expected cost (`gates`, `expected`). How beta follows from beta is in `recursion`, in two readings. At the end the
channels of the lowest beta go, over all layers together, until the budget is met exactly; where training has come
so far, these are the ones whose gates are below a half. They are cut for good. The gates of the others are folded
into the weights that were trained with them, which computes the same. Weights that stayed are left as they were,
without gates: these have told what matters, and what they made of the outputs would be worse. What was cut, and
passed something on, is made up for by what is kept, in closed form.

Sources: gates on channels trained with the network and then cut: Liu et al., "Learning Efficient Convolutional
Networks through Network Slimming", ICCV 2017, arXiv:1708.06519; a penalty on what the gates let the network cost:
Gordon et al., "MorphNet: Fast & Simple Resource-Constrained Structure Learning of Deep Networks", CVPR 2018,
arXiv:1711.06798; the slope of what counts or does not: Bengio, Leonard and Courville, "Estimating or Propagating
Gradients Through Stochastic Neurons for Conditional Computation", 2013, arXiv:1308.3432. The start at log n and
the recursion are paretune's own (docs/decisions/0009).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.errors import InfeasibleError, InputError, RecipeError, TaskError, check_whole, is_number, nearest
from paretune.prune._analysis import Analysis, analyze, only, require_groups
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._channels import repaired
from paretune.prune._couplings.groups import Group
from paretune.prune._cut import Pruned, Selection, check_form
from paretune.prune._hand_over import hand_over
from paretune.prune._learned.expected import Expected
from paretune.prune._learned.gates import Gated, Trajectory
from paretune.prune._learned.places import Places, gated, places_of, reads_of
from paretune.prune._learned.recursion import OPTIMIZERS, RECURSIONS, start_of
from paretune.prune._probe import cut_what_can_be, followed
from paretune.prune._ranking import ordered
from paretune.prune._regular.fields import TrainAndCut
from paretune.prune._selection.budget import Budget
from paretune.prune._selection.goal import Goal
from paretune.prune._selection.selection import to_target, unprotected
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context, Range, StepResult
from paretune.train import fit
from paretune.train._objective import task_objective
from paretune.train._training import training_of

if TYPE_CHECKING:
    from paretune.task import Task

WEIGHTS_OPTIMIZERS = ("adamw", "adam", "sgd")
ABOVE = 0.05
"""A cost of the open gates that ends further above the budget than this part of it is told."""


@dataclass(frozen=True)
class Weighed(Trained):
    """A model whose channels were weighed by gates, and cut."""

    trajectories: tuple[Trajectory, ...] = ()
    """The way of beta, of every group of channels that had gates."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the gates are to reach, and how they are trained."""

    ratio: float | None = None
    macs: float | str | None = None
    params: float | str | None = None
    optimizer: str = "adagrad"
    rate: float = 0.1
    penalty: float = 1.0
    recursion: str = "iteration"
    together: bool = True
    multiple: int = 1
    weights_optimizer: str = "adamw"

    def __post_init__(self) -> None:
        self.goal()
        choices = {"optimizer": OPTIMIZERS, "recursion": RECURSIONS, "weights_optimizer": WEIGHTS_OPTIMIZERS}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise RecipeError(
                    f"prune.learned: {name}={value!r} must be one of {', '.join(allowed)}."
                    f"{nearest(str(value), allowed)}"
                )
        for name, least in (("rate", "above 0"), ("penalty", "at least 0")):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < np.inf or (name == "rate" and not value):
                raise InputError(f"prune.learned: {name}={value!r} must be a number {least}")
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise InputError(f"prune.learned: multiple={self.multiple!r} must be a whole number of at least 1")

    def goal(self) -> Goal:
        """Return what the cut is to meet."""
        return Goal(who="prune.learned", ratio=self.ratio, macs=self.macs, params=self.params)

    def cost(self, analysis: Analysis, places: Places) -> tuple[Expected, float]:
        """Return what the gates let the model cost, and what it may."""
        units = analysis.couplings.units
        target = self.goal().of(analysis)
        if isinstance(target, Budget):
            return Expected(places, units, *analysis.counted(target.counts)), target.limit
        every = np.concatenate([group.blocks.ravel() for group in places.groups])
        return Expected(places, units, [((every,), 1.0)]), (1 - target) * len(every)


def learned(
    model: nn.Module,
    task: Task,
    *,
    ratio: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    optimizer: str = Plan.optimizer,
    rate: float = Plan.rate,
    penalty: float = Plan.penalty,
    recursion: str = Plan.recursion,
    together: bool = Plan.together,
    multiple: int = Plan.multiple,
    protect: Iterable[str] = (),
    structures: Iterable[str] = (),
    form: str = "auto",
    repair: int = 512,
    recalibrate: int = 512,
    weights_optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
    context: Context | None = None,
    **training: Any,
) -> Weighed:
    """Learn which channels matter on a copy of a model, and cut the others; the model given is not changed.

    Give exactly one of
        ratio: the fraction of the channels to remove, in [0, 1);
        macs, params: what to keep, a fraction of the model's in (0, 1] or an amount ("20M").
    optimizer, rate: of beta: `adagrad` or `sgd`, and its learning rate, which no schedule changes.
    penalty: weight of the budget penalty beside the task's loss, see the module.
    recursion: how beta follows from beta, with J the loss plus the penalty on a batch, and log n at the start.
        `iteration`: l counts steps of training, beta(l+1) = beta(l) - rate * dJ/dbeta(l), of all layers at once;
        `layer`: l counts layers, in the order of the network. The output Z(l), computed under the gates that layer
        l has just got, yields beta(l+1) = log n(l+1) - rate * dJ/dbeta(l+1): a step moves one layer, and after the
        last the first goes on from where it was.
    together: the weights are trained at the same time. Without it the weights, and the statistics of batch norm,
        stay as they are while beta is learned, dropout is off, and the gates are left out in the end.
    multiple, protect, structures, form: as `prune.channels` takes them.
    repair: training samples on which kept weights are made to make up for what went, in closed form
        (`prune.repair`): gates that are half closed count still; 0 leaves the weights.
    recalibrate: training samples for the recalibration of batch norm where nothing is repaired; 0 leaves it.
    weights_optimizer, training: optimizer, epochs, lr, ... of the weights, as `train.fit` takes them; what the
        last epoch leaves is taken.

    Channels that no weights read, and those that recurrent layers read, have no gate and stay, with a note. A
    target that cannot be met is an InfeasibleError before anything is trained.
    """
    plan = Plan(
        ratio=ratio, macs=macs, params=params, optimizer=optimizer, rate=rate, penalty=penalty,
        recursion=recursion, together=together, multiple=multiple, weights_optimizer=weights_optimizer,
    )  # fmt: skip
    check_whole("prune.learned: repair", repair, least=0)
    check_whole("prune.learned: recalibrate", recalibrate, least=0)
    settings = training_of("prune.learned", {"optimizer": weights_optimizer, **training})
    check_form(form)
    if task.train is None:
        raise TaskError(
            "prune.learned: beta is learned from data, and the task has none to train on: give Task(train=...). "
            "Without data prune.channels ranks channels by their weights"
        )
    model = given(model)
    require_values(model)
    context = context or Context()
    analysis = only(analyze(copied(model).cpu(), task.inputs()), structures)
    if form == "module":
        analysis = followed(analysis)
    require_groups(analysis)
    groups, left = gated(analysis, unprotected(analysis, protect))
    if not groups:
        raise InfeasibleError(_no_gate(left))
    places, names = places_of(groups, analysis.couplings.units), [group.label for group in groups]
    choose = partial(_choose, plan=plan, places=places, left=left)
    choose(analysis, beta=np.zeros(places.count))  # a target out of reach is told before anything is trained
    cost, limit = plan.cost(analysis, places)
    under = Gated(analysis.model, places, reads_of(analysis, places), cost, limit, together=together)
    fitted = fit(
        under, task, **asdict(settings), objective=_objective(task, penalty, settings.label_smoothing),
        objective_key=json.dumps({"learned": asdict(plan), "gates": names}, sort_keys=True), keep_best=False,
        context=context,
        each_step=lambda step, steps: under.learn(
            step, steps, recursion=recursion, optimizer=optimizer, rate=rate
        ),
    )  # fmt: skip
    notes = _notes(float(cost((under.beta >= 0).float()) / limit))
    trajectories = under.trajectories(names)
    beta = under.beta.double().numpy()
    if together:
        under.fold()
    analysis.model.eval()
    analysis, selection, pruned = cut_what_can_be(analysis, partial(choose, beta=beta), form)
    if repair:
        pruned = repaired(analysis, selection, pruned, task.data("train"), samples=repair, seed=context.seed)
    elif recalibrate:
        hand_over(pruned.model, task, context, recalibrate=recalibrate)
    values = {field.name: getattr(pruned, field.name) for field in fields(Pruned)}
    values["notes"] = (*fitted.notes, *pruned.notes, *notes)
    return Weighed(**values, fitted=replace(fitted, model=pruned.model), trajectories=trajectories)


def _objective(task: Task, penalty: float, label_smoothing: float) -> Any:
    own = task_objective(task, label_smoothing)

    def objective(model: nn.Module, inputs: Any, target: Any) -> dict[str, Tensor]:
        assert isinstance(model, Gated)
        return own(model, inputs, target) | {"budget": penalty * model.excess()}

    return objective


def _choose(
    analysis: Analysis,
    *,
    plan: Plan,
    places: Places,
    left: Sequence[tuple[Group, str]],
    beta: NDArray[np.float64],
) -> Selection:
    """Return what goes: of all groups together the channels whose beta fell most from log n, where it began.

    By beta itself narrow layers, which begin lower, would go first whatever their weights.
    """
    groups = [group for group in analysis.groups if (places.of_unit[group.blocks] < places.count).all()]
    scores = [beta[places.of_unit[group.blocks]] - start_of(group.blocks.size) for group in groups]
    ranked = ordered(analysis.couplings, groups, scores)
    return to_target(analysis, ranked, plan.goal().of(analysis), multiple=plan.multiple, unknown=left)


def _no_gate(left: Sequence[tuple[Group, str]]) -> str:
    reasons = "\n".join(f"  {group.label}: {why}" for group, why in left) or "  all of them are protected"
    return f"prune.learned: no channels of this model can have a gate, nothing was trained:\n{reasons}"


def _notes(ended: float) -> tuple[str, ...]:
    """Return a note where the gates did not come down to the budget, so that the cut closed open ones."""
    if ended <= 1 + ABOVE:
        return ()
    return (
        f"beta: the channels whose gates are above a half cost {ended:.2f} of the budget in the end, so that the "
        "cut took some of them: train for more epochs, or raise rate or penalty",
    )


@final
@dataclass(frozen=True, kw_only=True)
class Learned(TrainAndCut):
    """Learn a gate for every channel under a budget, then cut what the gates closed.

    The weights are trained at the same time, or stay. Without a target, half of the multiply-accumulates stay.
    """

    name: ClassVar[str] = "prune.learned"

    optimizer: str = "adagrad"  # type: ignore[assignment]  # of beta; that of the weights is weights_optimizer
    """Of the gates: adagrad or sgd."""
    rate: Annotated[float, Range(0, 1000, low_open=True)] = 0.1
    """The learning rate of the gates."""
    penalty: Annotated[float, Range(0, 1e6)] = 1.0
    """Weight of the budget penalty: the part of the budget by which what is open is above it."""
    recursion: str = "iteration"
    """`iteration`: every step moves the gates of all layers; `layer`: one layer's after the other's."""
    together: bool = True
    """The weights are trained at the same time; else they stay, and the gates alone learn."""
    weights_optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Of the weights."""
    multiple: Annotated[int, Range(1, 1024)] = 1
    """Widths after the cut are multiples of this: 16 suits the CPU's kernels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Plan(**{field.name: getattr(self, field.name) for field in fields(Plan)})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Learn and cut; the training's curve and the way of beta are in `details`."""
        pruned = learned(model, task, **self.parameters(), context=context)
        way = [asdict(trajectory) for trajectory in pruned.trajectories]
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": pruned.widths})
        for row in way:
            context.emit("beta", row)
        assert pruned.fitted is not None
        details = {"before": pruned.before, "after": pruned.after, "widths": pruned.widths, "beta": way}
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, pruned.fitted.details() | details)
