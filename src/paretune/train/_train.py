"""The step `train`: fit the model to the task's own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from paretune.recipe import Context, Step, StepResult
from paretune.task import Task
from paretune.train._fit import fit
from paretune.train._training import Training


@final
@dataclass(frozen=True, kw_only=True)
class Train(Training, Step):
    """Train with the task's loss; the epoch that is best on the validation data is kept."""

    name: ClassVar[str] = "train"
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Return the trained model; the curve and how it was computed are in `details`."""
        fitted = fit(model, task, **self.parameters(), context=context)
        return StepResult(fitted.model, notes=fitted.notes, details=fitted.details())
