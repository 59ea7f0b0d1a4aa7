"""Gradual pruning: while the model trains, ever more of its smallest weights become zero and stay zero.

Every few steps the masks are chosen anew, by the same rules as `prune.weights`, for the ratio that the ramp has
reached; what is zero already has the smallest norm, so that the zeros only grow. Training goes on after the ramp,
so that the weights that stay can make up for what went.

Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
arXiv:1710.01878.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretune import masks
from paretune.cuts import Cuts, fold_parametrizations, parametrized
from paretune.errors import RecipeError, nearest
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._sparse.choice import Choice
from paretune.prune._sparse.ramps import RAMPS, at
from paretune.prune._sparse.units import Unit
from paretune.prune._sparse.weights import chosen_of, counts_of, left_out, notes_of, rows_of
from paretune.recipe import Context, Range, Step, StepResult
from paretune.train import FitResult, fit
from paretune.train._training import Training

if TYPE_CHECKING:
    from paretune.task import Task


@dataclass(frozen=True)
class Trained(Pruned):
    """A model that was pruned while it trained."""

    fitted: FitResult | None = None
    """The curve, and how it was computed; its model is this one."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """When which part of the weights goes."""

    ratio: float = 0.9
    ramp: str = "cubic"
    begin: float = 0.0
    end: float = 0.7
    every: int = 20
    norm: str = "l1"
    unit: Unit = "weight"
    scope: str = "global"

    def __post_init__(self) -> None:
        if self.ramp not in RAMPS:
            raise RecipeError(
                f"prune.gradual: ramp='{self.ramp}' must be one of {', '.join(RAMPS)}.{nearest(self.ramp, RAMPS)}"
            )
        if not 0 <= self.begin < self.end <= 1:
            raise RecipeError(
                f"prune.gradual: begin={self.begin:g} and end={self.end:g} must be parts of the training, from 0 "
                "to 1, the begin before the end"
            )
        self.choice(self.ratio)

    def choice(self, ratio: float) -> Choice:
        """Return what goes at a ratio."""
        return Choice(ratio=ratio, norm=self.norm, unit=self.unit, scope=self.scope)

    def due(self, step: int, steps: int) -> float | None:
        """Return the ratio that is to hold after a step, None where the masks stay as they are."""
        begin, end = int(self.begin * steps), max(1, int(self.end * steps))
        if step < begin or step > end + self.every or (step % self.every and step not in (1, end)):
            return None
        return self.ratio * at(self.ramp, step, begin, end)


def gradual(
    model: nn.Module,
    task: Task,
    *,
    ratio: float = Ramp.ratio,
    ramp: str = Ramp.ramp,
    begin: float = Ramp.begin,
    end: float = Ramp.end,
    every: int = Ramp.every,
    norm: str = Ramp.norm,
    unit: Unit = Ramp.unit,
    scope: str = Ramp.scope,
    names: Iterable[str] | None = None,
    protect: Iterable[str] = (),
    context: Context | None = None,
    **training: Any,
) -> Trained:
    """Train a copy of a model while more and more of its weights become zero; the model given is not changed.

    ratio, norm, unit, scope, names, protect: as `prune.weights` takes them; the ratio at the end.
    ramp: how it is reached: `one_shot`, `linear`, `cubic`; from `begin` to `end`, parts of the training in [0, 1].
    every: steps of the optimizer between two choices.
    training: epochs, lr, ... as `train.fit` takes them. The weights of the last epoch are taken: an earlier one
    that is
        better on validation data has fewer zeros.
    """
    plan = Ramp(ratio=ratio, ramp=ramp, begin=begin, end=end, every=every, norm=norm, unit=unit, scope=scope)
    settings = Training(**training)
    model = given(model)
    require_values(model)
    folded = parametrized(model)
    pruned = fold_parametrizations(copied(model), folded)
    chosen = chosen_of(pruned, names, protect)
    before = counts_of(pruned)
    masks.apply(pruned, {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in chosen.items()})

    def each_step(step: int, steps: int, stays: dict[str, Tensor]) -> None:
        due = plan.due(step, steps)
        if due is not None:
            _raise_to(pruned, plan.choice(due), stays)
        with torch.no_grad():  # the momentum of what was set to zero goes on for a while
            for name, mask in stays.items():
                pruned.get_parameter(name).mul_(mask)

    fitted = fit(
        pruned, task, **{name: getattr(settings, name) for name in training}, each_step=each_step,
        objective_key=json.dumps({"gradual": vars(plan)}, sort_keys=True), keep_best=False, context=context,
    )  # fmt: skip
    stays = {name: parameter != 0 for name, parameter in masks.masked(pruned).items()}
    after = counts_of(pruned)
    return Trained(
        model=fitted.model,
        cuts=Cuts(
            shapes={}, folded=folded, masks=tuple(masks.Mask.of(name, mask) for name, mask in stays.items())
        ),
        unprunable=left_out(pruned, chosen),
        before=before,
        after=after,
        widths={},
        notes=(*fitted.notes, *notes_of(pruned, folded, stays, before, after)),
        fitted=fitted,
    )


def _raise_to(model: nn.Module, choice: Choice, stays: dict[str, Tensor]) -> None:
    """Note what goes at a ratio among what does not stay."""
    for name, where in choice.gone({name: model.get_parameter(name).detach() for name in stays}).items():
        stays[name].logical_and_(~where)


@final
@dataclass(frozen=True, kw_only=True)
class Gradual(Training, Step):
    """Train while ever more of the smallest weights become zero, up to a ratio; they stay zero afterwards."""

    name: ClassVar[str] = "prune.gradual"
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    ratio: Annotated[float, Range(0.0, 1.0, high_open=True)] = 0.9
    """Fraction of the weights that are zero in the end."""
    ramp: str = "cubic"
    """How it is reached: `one_shot`, `linear`, or `cubic`, fast at first."""
    begin: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Where the ramp begins, as a part of the training."""
    end: Annotated[float, Range(0.0, 1.0)] = 0.7
    """Where the ratio is reached, as a part of the training; the rest recovers."""
    every: Annotated[int, Range(1, 1_000_000)] = 20
    """Steps of the optimizer between two choices of what is zero."""
    norm: str = "l1"
    """l1 or l2, over a unit."""
    unit: str | tuple[int, int] = "weight"
    """weight, row, kernel, filter, or a block [rows, columns]."""
    scope: str = "global"
    """What the ratio is of: `global`, `layer` (each module) or `tensor`."""
    names: tuple[str, ...] | None = None
    """Parameters that may lose weights, by name or glob; by default all of at least two axes."""
    protect: tuple[str, ...] = ()
    """Parameters or modules that stay whole, by name or glob."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Ramp(**{name: getattr(self, name) for name in Ramp.__dataclass_fields__})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Train and prune; the curve is in `details`."""
        pruned = gradual(model, task, **self.parameters(), context=context)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}})
        assert pruned.fitted is not None
        details = {"before": pruned.before, "after": pruned.after, "tensors": rows_of(pruned.model)}
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, pruned.fitted.details() | details)
