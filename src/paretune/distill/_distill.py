"""The step `distill`: train the model to answer as the teacher does, and as the labels say.

    loss = alpha * (sum of the distillation losses) + (1 - alpha) * (the task's loss)

The teacher is the model that the recipe started from. It sees the very batch that the student sees, augmentation
included, which is what makes distillation work (Beyer et al., "Knowledge distillation: a good teacher is patient
and consistent", arXiv:2106.05237, section 3). With little data of its own kind it is often the largest win after a
cut; a student that is already as good as its teacher gains nothing.

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, final

import torch
from torch import nn

from paretune.data import call
from paretune.errors import RecipeError, nearest
from paretune.methods import find
from paretune.metrics import main_output
from paretune.recipe import Context, Range, Step, StepResult
from paretune.task import Task
from paretune.train import FitResult, fit, task_loss
from paretune.train._compute import Objective
from paretune.train._objective import loss_name
from paretune.train._training import Training

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(student's output, teacher's output) -> scalar."""
LossSpec = str | dict[str, dict[str, Any] | None]
"""`soft_labels`, or with arguments `{soft_labels: {temperature: 4}}`."""
DEFAULT_LOSSES: tuple[LossSpec, ...] = ({"soft_labels": {"temperature": 4.0}},)


@final
@dataclass(frozen=True, kw_only=True)
class Distill(Training, Step):
    """Train the model to imitate the unpruned one; the epoch that is best on the validation data is kept."""

    name: ClassVar[str] = "distill"
    uses_teacher: ClassVar[bool] = True
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    losses: tuple[LossSpec, ...] = DEFAULT_LOSSES
    """Names that `paretune methods losses` lists, each with its arguments or without; they are summed."""
    alpha: Annotated[float, Range(0, 1)] = 0.9
    """Weight of the distillation losses; the task's own loss has 1 - alpha, and at 1 needs no labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_losses(self.losses)

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Return the trained student; the curve, with each loss term, is in `details`."""
        if context.teacher is None:
            raise RecipeError("distill: there is no teacher; in Python, pass Context(teacher=the unpruned model)")
        fitted = distill(model, context.teacher, task, **self.parameters(), context=context)
        return StepResult(fitted.model, notes=fitted.notes, details=fitted.details())


def distill(
    student: nn.Module,
    teacher: nn.Module,
    task: Task,
    *,
    losses: Sequence[LossSpec] = DEFAULT_LOSSES,
    alpha: float = 0.9,
    label_smoothing: float = 0.0,
    context: Context | None = None,
    **training: Any,
) -> FitResult:
    """Train the student in place and return it with its curve; the teacher is not changed.

    losses, alpha: see `Distill`. training: epochs, lr, ... as `train.fit` takes them.
    Student and teacher may return a tensor, a dict or a tuple: `metrics.main_output` says what is compared.
    """
    Distill(losses=tuple(losses), alpha=alpha, label_smoothing=label_smoothing, **training)  # validates
    guide = copy.deepcopy(teacher).eval().requires_grad_(False)  # moved and laid out like the student
    objective = _objective(guide, resolve_losses(losses), task, alpha, label_smoothing)
    key = json.dumps({"losses": list(losses), "alpha": alpha}, sort_keys=True)
    return fit(
        student, task, label_smoothing=label_smoothing, objective=objective, objective_key=key,
        companions=(guide,), context=context, **training,
    )  # fmt: skip


def _objective(
    teacher: nn.Module, taught: Mapping[str, Loss], task: Task, alpha: float, label_smoothing: float
) -> Objective:
    own, own_name = task_loss(task, label_smoothing), loss_name(task)

    def objective(student: nn.Module, inputs: Any, target: Any) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            guide = main_output(call(teacher, inputs))
        output = call(student, inputs)
        terms = {name: alpha * loss(main_output(output), guide) for name, loss in taught.items()}
        return terms | ({own_name: (1 - alpha) * own(output, target)} if alpha < 1 else {})

    return objective


def resolve_losses(losses: Sequence[LossSpec]) -> dict[str, Loss]:
    """Return each loss by name with its arguments bound; a wrong name or argument is a RecipeError."""
    if not losses:
        raise RecipeError("distill: losses is empty; give at least one, for example losses=['soft_labels']")
    named: dict[str, Loss] = {}
    for spec in losses:
        name, arguments = (spec, {}) if isinstance(spec, str) else _single(spec)
        if name in named:
            raise RecipeError(f"distill: losses names '{name}' twice; weigh it with alpha instead")
        named[name] = _bound(name, arguments)
    return named


def _single(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if len(spec) != 1:
        raise RecipeError(
            f"distill: losses: {dict(spec)} must have one name with its arguments, "
            "for example {soft_labels: {temperature: 4}}; start a new list entry for each loss"
        )
    name, arguments = next(iter(spec.items()))
    return name, dict(arguments or {})


def _bound(name: str, arguments: dict[str, Any]) -> Loss:
    function = find("losses", name)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for argument in arguments:
        if argument not in known:
            raise RecipeError(
                f"distill: losses: {name} has no argument '{argument}'.{nearest(argument, known)} "
                f"It takes {', '.join(known) or 'none'}."
            )
    loss = partial(function, **arguments)
    _try(name, loss, arguments)
    return loss


def _try(name: str, loss: Loss, arguments: dict[str, Any]) -> None:
    """Call the loss once on two samples, so that a wrong value is seen when the recipe is read."""
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    try:
        loss(logits, logits.clone())
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise RecipeError(f"distill: losses: {name}({given}) does not work: {error}") from error
