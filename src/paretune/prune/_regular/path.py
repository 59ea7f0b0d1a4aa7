"""The path of an L1 penalty: trainings at rising strength, each from where the last one ended, compared on one
split.

Source: Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear models via coordinate
    descent", Journal of Statistical Software 33, 2010 (warm starts along a path); here from weak to strong, as
    the model is trained already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from paretune.decision import decide
from paretune.errors import InputError, TaskError, is_number
from paretune.evaluation import evaluate
from paretune.prune._regular.sparse import sparse
from paretune.prune._sparse.gradual import Trained
from paretune.recipe import Context
from paretune.train._compute import Compute

if TYPE_CHECKING:
    from paretune.measurement import Evaluation
    from paretune.task import Task


@dataclass(frozen=True)
class PathPoint:
    """One training of a path."""

    strength: float
    trained: Trained
    evaluation: Evaluation
    """On the validation data."""
    drop: float
    """Against strength 0, positive = worse: points where the metric is a fraction of samples, else percent."""

    def to_json(self) -> dict[str, Any]:
        """Return the point without its model, as plain JSON."""
        return {
            "strength": self.strength,
            "metric": self.evaluation.to_json(),
            "drop": self.drop,
            "params": self.trained.after["params"],
            "nonzero": self.trained.after["nonzero"],
        }


@dataclass(frozen=True)
class SparsePath:
    """All points, by rising strength; the first is without a penalty."""

    points: tuple[PathPoint, ...]

    @property
    def best(self) -> PathPoint:
        """The point with the best metric on validation data, the strongest penalty of equal ones."""
        sign = 1 if self.points[0].evaluation.metric.greater_is_better else -1
        return max(self.points, key=lambda point: (sign * point.evaluation.value, point.strength))

    def within(self, max_drop: float) -> PathPoint:
        """Return the point with the fewest weights whose drop against strength 0 is at most that."""
        if not is_number(max_drop) or not max_drop >= 0:
            raise InputError(f"sparse_path: max_drop={max_drop!r} must be a number of at least 0")
        held = [point for point in self.points if point.drop <= max_drop]
        return min(held, key=lambda point: point.trained.after["nonzero"])


def sparse_path(
    model: nn.Module,
    task: Task,
    lambdas: Sequence[float] = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    *,
    proximal: bool = True,
    context: Context | None = None,
    **how: Any,
) -> SparsePath:
    """Train under penalties of rising strength, each from the weights of the one before, and compare all.

    lambdas: strengths; 0 is added where it is missing, and they are sorted.
    proximal, how: as `prune.sparse` takes them: norm, names, protect, epochs, lr, ...
    With `context.folder` each training is resumed from its own checkpoints.
    """
    strengths = _checked(lambdas)
    if task.val is None:
        raise TaskError("prune.sparse_path compares on validation data, and the task has none: give Task(val=...)")
    context = context or Context()
    compute = Compute(context.device)
    points: list[PathPoint] = []
    for index, strength in enumerate(strengths):
        own = dataclasses.replace(context, folder=context.folder and context.folder / f"{index:02}-{strength:g}")
        made = sparse(model, task, strength=strength, proximal=proximal, context=own, **how)
        placed = compute.place(made.model).eval()
        seen = evaluate(compute.run(placed), task.data("val"), task.resolved_metric())
        made.model.cpu()
        drop = decide(points[0].evaluation, seen, 0.0).drop if points else 0.0
        points.append(PathPoint(strength, made, seen, drop))
        context.emit("note", {"text": f"lambda {strength:g}: {made.after['nonzero']} weights, drop {drop:.2f}"})
        model = made.model
    return SparsePath(tuple(points))


def _checked(lambdas: Sequence[float]) -> list[float]:
    values: list[float] = list(lambdas) if isinstance(lambdas, Iterable) else [lambdas]
    wrong = [value for value in values if not (is_number(value) and 0 <= value < float("inf"))]
    if wrong or not values:
        raise InputError(
            f"prune.sparse_path: lambdas={lambdas!r} must be numbers of at least 0, for example [0, 1e-5, 1e-4]"
        )
    return sorted({0.0, *(float(value) for value in values)})
