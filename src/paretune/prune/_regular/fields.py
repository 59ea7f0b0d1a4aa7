"""The fields that steps have in common which train, cut channels, and repair what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from paretune.errors import RecipeError, nearest
from paretune.prune._couplings.groups import STRUCTURES
from paretune.prune._cut import check_form
from paretune.prune._selection.budget import Amount
from paretune.prune._selection.goal import GOALS, Goal
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context, Range, Step, StepResult
from paretune.train._training import Training


@dataclass(frozen=True, kw_only=True)
class TrainAndCut(Training, Step):
    """What is cut after the training, and how."""

    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    ratio: Annotated[float | None, Range(0.0, 1.0, high_open=True)] = None
    """Fraction of the channels to remove."""
    macs: Amount = None
    """Multiply-accumulates to keep: a fraction of the incoming model's, or an amount like 20e6 or "20M"."""
    params: Amount = None
    """Parameters to keep, likewise: 0.5 or "1M"."""
    protect: tuple[str, ...] = ()
    """Layers, by name or glob, that keep the channels they make."""
    structures: tuple[str, ...] = ()
    """What may be removed, as `prune.channels` has it; else all."""
    form: str = "auto"
    """`module`, `graph` or `auto`, as `prune.channels` has it."""
    repair: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples on which kept weights are made to make up for what went, in closed form; 0 leaves them."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm, where nothing is repaired; 0 leaves the statistics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if all(getattr(self, name) is None for name in GOALS):
            object.__setattr__(self, "macs", 0.5)
        Goal(who=self.name, **{name: getattr(self, name) for name in GOALS})
        for name in self.structures:
            if name not in STRUCTURES:
                raise RecipeError(
                    f"{self.name}: structures: '{name}' is none of {', '.join(STRUCTURES)}."
                    f"{nearest(name, STRUCTURES)}"
                )
        check_form(self.form)


def told(made: Trained, context: Context) -> StepResult:
    """Return the result of such a step; the training's curve is in `details`."""
    context.emit("pruned", {"before": made.before, "after": made.after, "widths": made.widths})
    assert made.fitted is not None
    details = {"before": made.before, "after": made.after, "widths": made.widths}
    return StepResult(made.model, (made.cuts,), made.notes, made.fitted.details() | details)
