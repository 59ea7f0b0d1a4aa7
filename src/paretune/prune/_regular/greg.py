"""Growing regularisation: channels are chosen first, pushed to zero while the model trains, and cut at the end.

The L2 factor of the weights of all chosen channels grows by `grow` every `every` steps, up to `ceiling`; the
others have none. So what the chosen channels did moves over to the others little by little, before they go
(GReg-1 of the source). The pull is made after each step of the optimizer, w <- w / (1 + lr * factor), the
proximal step of factor / 2 ||w||^2, which no optimizer rescales and no factor makes unstable.

Source: Wang, Qin, Zhang and Fu, "Neural pruning via growing regularization", ICLR 2021, arXiv:2012.09243,
    algorithm 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import torch
from torch import nn

from paretune.errors import InputError, check_whole, is_number
from paretune.prune._regular.channelwise import channelwise, chosen_by
from paretune.prune._regular.fields import TrainAndCut, told
from paretune.prune._selection.goal import Goal
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context, Range, StepResult
from paretune.train import fit
from paretune.train._schedule import rate
from paretune.train._training import refuse_patience, training_of

if TYPE_CHECKING:
    from paretune.task import Task


def factor_at(step: int, *, grow: float, every: int, ceiling: float) -> float:
    """Return the factor that holds after a step.

    >>> [factor_at(step, grow=0.5, every=10, ceiling=1.0) for step in (1, 9, 10, 20, 90)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    return min(ceiling, grow * (step // every))


def greg(
    model: nn.Module,
    task: Task,
    *,
    ratio: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    grow: float = 0.1,
    every: int = 10,
    ceiling: float = 10.0,
    protect: Iterable[str] = (),
    structures: Iterable[str] = (),
    form: str = "auto",
    repair: int = 512,
    recalibrate: int = 512,
    context: Context | None = None,
    **training: Any,
) -> Trained:
    """Choose channels of a copy of a model, let a growing penalty empty them in training, and cut them.

    Give exactly one of ratio (the fraction of channels to remove) and macs, params (what to keep: 0.5 or "20M").
    Those with the smallest weights, in root mean square, are chosen, over all layers.
    grow, every, ceiling: the L2 factor grows by `grow` each `every` steps of the optimizer, up to `ceiling`.
    protect, structures, form: as `prune.channels` takes them. repair, recalibrate: as its step does.
    training: epochs, lr, ... as `train.fit` takes them; the weights of the last epoch are cut.
    """
    check(grow, every, ceiling)
    check_whole("prune.greg: repair", repair, least=0)
    check_whole("prune.greg: recalibrate", recalibrate, least=0)
    settings = training_of("prune.greg", training)
    refuse_patience("prune.greg", settings, "the factor has grown")
    goal = Goal(who="prune.greg", ratio=ratio, macs=macs, params=params)
    context = context or Context()
    made = channelwise(model, task, goal, protect=protect, structures=structures, form=form)
    selection = made.lowest(made.analysis)
    masks = made.slices.masks(torch.from_numpy(chosen_by(selection, made.places)))
    data = task.data("train")
    warmup = round(settings.warmup * data.steps(settings.batch_size or data.batch_size))
    parameters = [made.model.get_parameter(name) for name in masks]

    def each_step(step: int, steps: int) -> None:
        lr = rate(step - 1, steps, lr=settings.lr, warmup=warmup, schedule=settings.schedule)
        pull = lr * factor_at(step, grow=grow, every=every, ceiling=ceiling)
        with torch.no_grad():
            for parameter, mask in zip(parameters, masks.values(), strict=True):
                parameter.sub_(parameter * mask.to(parameter.device), alpha=pull / (1 + pull))

    fitted = fit(
        made.model, task, **{name: getattr(settings, name) for name in training}, each_step=each_step,
        objective_key=json.dumps({"greg": [grow, every, ceiling], "chosen": selection.removed.tolist()}),
        keep_best=False,
        context=context,
    )  # fmt: skip
    return made.cut(
        lambda analysis: selection if analysis is made.analysis else made.lowest(analysis),
        fitted, task, context, form=form, repair=repair, recalibrate=recalibrate,
    )  # fmt: skip


def check(grow: float, every: int, ceiling: float) -> None:
    """Raise an error that says what is wrong with a growing factor."""
    for name, value in (("grow", grow), ("ceiling", ceiling)):
        if not is_number(value) or not 0 < value < float("inf"):
            raise InputError(f"prune.greg: {name}={value!r} must be a number above 0")
    check_whole("prune.greg: every", every)


@final
@dataclass(frozen=True, kw_only=True)
class Greg(TrainAndCut):
    """Choose channels, let a growing penalty empty them in training, then cut them and repair what is kept.

    Without a goal, half of the multiply-accumulates stay.
    """

    name: ClassVar[str] = "prune.greg"

    grow: Annotated[float, Range(0.0, 1e6, low_open=True)] = 0.1
    """What the L2 factor of chosen channels grows by."""
    every: Annotated[int, Range(1, 1_000_000)] = 10
    """Steps of the optimizer after which it grows."""
    ceiling: Annotated[float, Range(0.0, 1e6, low_open=True)] = 10.0
    """The largest factor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_patience("prune.greg", self, "the factor has grown")

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Train and cut; the training's curve is in `details`."""
        return told(greg(model, task, **self.parameters(), context=context), context)
