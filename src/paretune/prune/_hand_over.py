"""What every step of pruning does with its model before the next step gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from paretune.recipe import Context
    from paretune.task import Task


def hand_over(model: nn.Module, task: Task, context: Context, *, recalibrate: int) -> nn.Module:
    """Recalibrate batch norm on so many training samples, 0 leaves it, and return the model on the CPU."""
    from paretune.train import recalibrate_batch_norm

    if recalibrate:
        recalibrate_batch_norm(
            model,
            task.data("train"),
            samples=recalibrate,
            augment=task.augment,
            seed=context.seed,
            device=context.device,
        )
    return model.cpu()


def rows_of(unprunable: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    """Return what could not be pruned as plain rows."""
    return [{"layer": layer, "reason": reason, "remedy": remedy} for layer, reason, remedy in unprunable]
