"""Gradual pruning: while the model trains, ever more of its weights become zero.

Every few steps the weights that go are chosen anew, by the same rules as `prune.weights`, for the ratio that the
ramp has reached; a criterion says what is compared, and whether weights may come back. Training goes on after
the ramp, so that the weights that stay can make up for what went.

Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
arXiv:1710.01878; the modules of `criteria` name theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretune import masks
from paretune.cuts import Cuts, fold_parametrizations, parametrized
from paretune.errors import RecipeError, check_choice, check_whole
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._sparse.choice import Choice
from paretune.prune._sparse.criteria import CRITERIA
from paretune.prune._sparse.ramps import RAMPS, at
from paretune.prune._sparse.units import Unit
from paretune.prune._sparse.watch import Watched, raised, watch
from paretune.prune._sparse.weights import chosen_of, counts_of, left_out, notes_of, rows_of
from paretune.recipe import Context, Range, Step, StepResult
from paretune.train import FitResult, fit
from paretune.train._training import Training, refuse_patience, training_of

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
    criterion: str = "magnitude"
    ramp: str = "cubic"
    begin: float = 0.0
    end: float = 0.7
    every: int = 20
    norm: str = "l1"
    unit: Unit = "weight"
    scope: str = "global"

    def __post_init__(self) -> None:
        for name, known in (("criterion", CRITERIA), ("ramp", RAMPS)):
            check_choice(f"prune.gradual: {name}", getattr(self, name), known)
        if not 0 <= self.begin < self.end <= 1:
            raise RecipeError(
                f"prune.gradual: begin={self.begin:g} and end={self.end:g} must be parts of the training, from 0 "
                "to 1, the begin before the end"
            )
        check_whole("prune.gradual: every", self.every)
        self.choice(self.ratio)

    def choice(self, ratio: float) -> Choice:
        """Return what goes at a ratio."""
        return Choice(ratio=ratio, norm=self.norm, unit=self.unit, scope=self.scope)

    def due(self, step: int, steps: int) -> float | None:
        """Return the ratio that is to hold after a step, None where the masks stay as they are."""
        begin, end = self._span(steps)
        if step < begin or step > end or (step % self.every and step not in (1, end)):
            return None
        return self.ratio * at(self.ramp, step, begin, end)

    def progress(self, step: int, steps: int) -> float:
        """Return how much of the ramp is behind: 0 before its begin, 1 after its end."""
        begin, end = self._span(steps)
        return min(1.0, max(0.0, (step - begin) / (end - begin)))

    def _span(self, steps: int) -> tuple[int, int]:
        begin = int(self.begin * steps)
        return begin, max(begin + 1, int(self.end * steps))


def gradual(
    model: nn.Module,
    task: Task,
    *,
    ratio: float = Ramp.ratio,
    criterion: str = Ramp.criterion,
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
    criterion: `magnitude`, the smallest go for good; `movement`, those go that training moves towards zero;
        `dynamic_surgery`, the smallest go, learn on unseen, and may come back; `rigl`, some of the smallest are
        exchanged for those with the largest gradient, ever fewer.
    ramp: how it is reached: `one_shot`, `linear`, `cubic`; from `begin` to `end`, parts of the training in [0, 1].
        After the end nothing is chosen any more.
    every: steps of the optimizer between two choices.
    training: epochs, lr, ... as `train.fit` takes them. The weights of the last epoch are taken: an earlier one
        that is better on validation data has fewer zeros.
    Weights that an earlier step masked stay zero, by every criterion.
    """
    plan = Ramp(
        ratio=ratio, criterion=criterion, ramp=ramp, begin=begin, end=end, every=every, norm=norm, unit=unit,
        scope=scope,
    )  # fmt: skip
    settings = training_of("prune.gradual", training)
    refuse_patience("prune.gradual", settings, "the ramp has reached its ratio")
    model = given(model)
    require_values(model)
    folded = parametrized(model)
    pruned = fold_parametrizations(copied(model), folded)
    chosen = chosen_of(pruned, names, protect)
    before = counts_of(pruned)
    watched = watch(pruned, chosen, CRITERIA[criterion], masks.release(pruned, chosen))

    def each_step(step: int, steps: int) -> None:
        for tensor in watched:
            tensor.settle()
        due = plan.due(step, steps)
        if due is not None:
            choose(plan, due, plan.progress(step, steps), dict(zip(chosen, watched, strict=True)))

    fitted = fit(
        pruned, task, **{name: getattr(settings, name) for name in training}, each_step=each_step,
        objective_key=json.dumps({"gradual": vars(plan)}, sort_keys=True), keep_best=False, context=context,
    )  # fmt: skip
    stays = {name: tensor.stays for name, tensor in zip(chosen, watched, strict=True)}
    for tensor in watched:
        tensor.remove()
    masks.apply(pruned, stays)
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


def choose(plan: Ramp, due: float, progress: float, watched: Mapping[str, Watched]) -> None:
    """Choose anew which weights are in, at the ratio that is due; progress: of the ramp, in [0, 1]."""
    exchanged = CRITERIA[plan.criterion].exchanged
    first = raised(due, exchanged, progress)
    moved = plan.criterion == "movement"  # a score has no zero that a sum over more weights could start from
    gone = plan.choice(first).gone(_importances(watched), average=moved)
    if first > due:
        growing = {name: _grown(~gone[name], tensor) for name, tensor in watched.items()}
        gone = plan.choice(due).gone(growing, average=True)
    for name, tensor in watched.items():
        tensor.choose(~gone[name])


def _importances(watched: Mapping[str, Watched]) -> dict[str, Tensor]:
    """Return what weights are compared by, moved up to be above zero, and zero for those that may never be in."""
    values = {name: tensor.importance() for name, tensor in watched.items()}
    least = min((float(value.min()) for value in values.values()), default=0.0)
    most = max((float(value.max()) for value in values.values()), default=0.0)
    up = 1e-6 * (most - least) + torch.finfo(torch.float32).tiny - min(least, 0.0)
    return {name: (value + up) * watched[name].allowed.to(value.device) for name, value in values.items()}


def _grown(stays: Tensor, tensor: Watched) -> Tensor:
    """Return what grows by: the gradient, and more than any of it where a weight stays."""
    if tensor.gradient is None:  # a frozen tensor
        return stays.float()
    gradient = tensor.gradient.abs() * tensor.allowed.to(stays.device)
    return torch.where(stays, 2.0, gradient / gradient.max().clamp(min=1e-30))


@final
@dataclass(frozen=True, kw_only=True)
class Gradual(Training, Step):
    """Train while ever more of the smallest weights become zero, up to a ratio; they stay zero afterwards."""

    name: ClassVar[str] = "prune.gradual"
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")
    cumulative: ClassVar[bool] = True

    ratio: Annotated[float, Range(0.0, 1.0, high_open=True)] = 0.9
    """Fraction of the weights that are zero in the end."""
    criterion: str = "magnitude"
    """`magnitude`, `movement`, `dynamic_surgery` or `rigl`; by all but the first, weights may come back."""
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
        refuse_patience("prune.gradual", self, "the ramp has reached its ratio")
        Ramp(**{name: getattr(self, name) for name in Ramp.__dataclass_fields__})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Train and prune; the curve is in `details`."""
        pruned = gradual(model, task, **self.parameters(), context=context)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}})
        assert pruned.fitted is not None
        details = {"before": pruned.before, "after": pruned.after, "tensors": rows_of(pruned.model)}
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, pruned.fitted.details() | details)
