"""The task's own loss as an objective, with label smoothing and with errors that name the data.

Label smoothing: Szegedy et al., arXiv:1512.00567, section 7: the target is 1 - e on the label plus e / classes
on every class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from paretune.data import call, shapes_of
from paretune.errors import DataError, ParetuneError, RecipeError, TaskError
from paretune.metrics import main_output
from paretune.task import Task
from paretune.train._compute import Objective, in_float32


def task_loss(task: Task, label_smoothing: float = 0.0) -> Callable[[Any, Any], torch.Tensor]:
    """Return the task's loss (output, target) -> scalar, computed in float32 whatever the model computes in.

    Label smoothing is for the loss "cross_entropy" alone; with another it is a RecipeError. Labels outside the
    classes are a DataError, a missing target is a TaskError.
    """
    criterion = task.criterion()
    if label_smoothing and task.loss != "cross_entropy":
        raise RecipeError(
            f"label_smoothing={label_smoothing} needs the loss 'cross_entropy', and task.loss is "
            f"{loss_name(task)!r}; set label_smoothing=0"
        )

    def loss(output: Any, target: Any) -> torch.Tensor:
        if target is None:
            raise TaskError(f"task.train yields no target, and the loss {loss_name(task)!r} needs one")
        output = in_float32(output)
        if task.loss == "cross_entropy":
            _check_labels(main_output(output), target)
            if label_smoothing:
                label = target if target.is_floating_point() else target.long()
                return functional.cross_entropy(main_output(output), label, label_smoothing=label_smoothing)
        try:
            return criterion(output, target)
        except (ParetuneError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the user's function
            raise TaskError(
                f"task.loss: {loss_name(task)!r} failed on a batch of task.train: {type(error).__name__}: "
                f"{error}. It was given {shapes_of(output)} as output and {shapes_of(target)} as target"
            ) from error

    return loss


def task_objective(task: Task, label_smoothing: float = 0.0) -> Objective:
    """Return the objective with one term, the task's loss, under its name."""
    criterion, name = task_loss(task, label_smoothing), loss_name(task)

    def objective(model: nn.Module, inputs: Any, target: Any) -> dict[str, torch.Tensor]:
        return {name: criterion(call(model, inputs), target)}

    return objective


def loss_name(task: Task) -> str:
    """Return the name under which the task's loss stands in curves and messages."""
    return task.loss if isinstance(task.loss, str) else getattr(task.loss, "__name__", type(task.loss).__name__)


def _check_labels(logits: torch.Tensor, target: torch.Tensor) -> None:
    if target.is_floating_point() or not target.numel():
        return
    classes = logits.shape[1]
    counted = target[target != -100]  # what cross_entropy ignores
    if not counted.numel():
        return
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"task.train: a batch has labels from {low} to {high}, but the model has {classes} outputs, that is "
            f"classes 0 to {classes - 1}; renumber the labels or widen the model's last layer"
        )
