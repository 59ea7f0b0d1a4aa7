"""Training under a penalty on the weights, so that many of them become small, or exactly zero.

    loss + strength * sum |w|^r, with r = 1 (`l1`) or 2 (`l2`)

With a plain penalty the gradient of |w| pulls weights towards zero and past it, so that few are zero exactly:
`prune.weights(threshold=...)` follows. With `proximal` the penalty is no part of the loss; after each step of
the optimizer all weights move towards zero by lr * strength and stop there (soft thresholding), which leaves
exact zeros. Adam divides gradients by their size and the threshold is not divided along, so that its strength is
compared with a gradient of about 1, and wants to be 100 to 1,000 times that for `sgd`.

Sources: Tibshirani 1996; Parikh and Boyd, "Proximal algorithms", 2014, section 4.2 (the proximal gradient method);
Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015, arXiv:1506.02626,
section 3.1 (L1 against L2 before pruning).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import torch
from torch import nn

from paretune import masks
from paretune.cuts import Cuts, fold_parametrizations, parametrized
from paretune.errors import InputError, RecipeError, is_number, nearest
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._regular.penalty import POWERS, penalty, soft_threshold
from paretune.prune._sparse.gradual import Trained
from paretune.prune._sparse.weights import chosen_of, counts_of, left_out, notes_of, rows_of
from paretune.recipe import Context, Range, Step, StepResult
from paretune.train import fit
from paretune.train._objective import task_objective
from paretune.train._schedule import rate
from paretune.train._training import Training, training_of

if TYPE_CHECKING:
    from paretune.task import Task


def sparse(
    model: nn.Module,
    task: Task,
    *,
    strength: float = 1e-5,
    norm: str = "l1",
    proximal: bool = False,
    names: Iterable[str] | None = None,
    protect: Iterable[str] = (),
    context: Context | None = None,
    **training: Any,
) -> Trained:
    """Train a copy of a model under a penalty on its weights; the model given is not changed.

    strength: lambda, for the sum over all weights that are penalised; 0 trains without.
    norm: `l1`, the sum of absolute values, or `l2`, the sum of squares.
    proximal: soft thresholding after each step instead of a term of the loss: exact zeros, which later trainings
        hold. names, protect: which parameters, by name or glob; by default all of at least two axes, names="*"
        for biases too.
    training: epochs, lr, ... as `train.fit` takes them. Its `weight_decay` comes on top. The weights of the last
        epoch are taken: an earlier one that is better on validation data has fewer zeros.
    """
    check(strength, norm, proximal)
    settings = training_of("prune.sparse", training)
    model = given(model)
    require_values(model)
    folded = parametrized(model)
    pruned = fold_parametrizations(copied(model), folded)
    chosen = chosen_of(pruned, names, protect)
    before = counts_of(pruned)
    parameters = [pruned.get_parameter(name) for name in chosen]
    own = task_objective(task, settings.label_smoothing)
    data = task.data("train")
    warmup = round(settings.warmup * data.steps(settings.batch_size or data.batch_size))

    def objective(student: nn.Module, inputs: Any, target: Any) -> dict[str, torch.Tensor]:
        return own(student, inputs, target) | {norm: strength * penalty(parameters, norm)}

    def each_step(step: int, steps: int) -> None:
        lr = rate(step - 1, steps, lr=settings.lr, warmup=warmup, schedule=settings.schedule)
        free = [parameter.detach() for parameter in parameters if parameter.requires_grad]
        soft_threshold(free, lr * strength)

    key = {"strength": strength, "norm": norm, "proximal": proximal, "penalised": list(chosen)}
    fitted = fit(
        pruned, task, **{name: getattr(settings, name) for name in training},
        objective=own if proximal or not strength else objective,
        each_step=each_step if proximal and strength else None,
        objective_key=json.dumps({"sparse": key}, sort_keys=True), keep_best=False, context=context,
    )  # fmt: skip
    stays = {name: pruned.get_parameter(name).detach() != 0 for name in chosen} if proximal else {}
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
        notes=(*fitted.notes, *(notes_of(pruned, folded, stays, before, after, STRONG) if proximal else ())),
        fitted=fitted,
    )


STRONG = "protect them, or take a smaller strength"


def check(strength: float, norm: str, proximal: bool) -> None:
    """Raise an error that says what is wrong with a penalty."""
    if not is_number(strength) or not 0 <= strength < float("inf"):
        raise InputError(
            f"prune.sparse: strength={strength!r} must be a number of at least 0; 0 penalises nothing"
        )
    if norm not in POWERS:
        raise RecipeError(
            f"prune.sparse: norm='{norm}' must be one of {', '.join(POWERS)}.{nearest(str(norm), POWERS)}"
        )
    if proximal and norm != "l1":
        raise RecipeError(
            f"prune.sparse: proximal makes zeros under the norm l1 only, and norm='{norm}': the proximal step "
            "of a sum of squares scales weights and makes none zero. Leave out norm, or proximal"
        )


@final
@dataclass(frozen=True, kw_only=True)
class Sparse(Training, Step):
    """Train under a penalty on the weights, so that many of them become small, or with `proximal` zero."""

    name: ClassVar[str] = "prune.sparse"
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    strength: Annotated[float, Range(0.0, 1e6)] = 1e-5
    """What the sum over all penalised weights is multiplied by: lambda."""
    norm: str = "l1"
    """l1, the sum of absolute values, or l2, the sum of squares."""
    proximal: bool = False
    """Soft thresholding after each step instead of a term of the loss: exact zeros."""
    names: tuple[str, ...] | None = None
    """Parameters that are penalised, by name or glob; by default all of at least two axes, ["*"] biases too."""
    protect: tuple[str, ...] = ()
    """Parameters or modules that are not, by name or glob."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.strength, self.norm, self.proximal)

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Train; the curve is in `details`, the penalty one of its terms."""
        made = sparse(model, task, **self.parameters(), context=context)
        context.emit("pruned", {"before": made.before, "after": made.after, "widths": {}})
        assert made.fitted is not None
        details = {"before": made.before, "after": made.after, "tensors": rows_of(made.model)}
        return StepResult(made.model, (made.cuts,), made.notes, made.fitted.details() | details)
