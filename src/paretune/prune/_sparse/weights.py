"""Weights by their norm: those at or below a threshold become zero and stay zero; shapes stay as they are.

The norm is taken over a unit (`units`): a single weight, a row, a kernel, a filter, or a block. A runtime for
dense weights computes the zeros like any other number and gets no faster; they save bytes once they are packed.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from torch import Tensor, nn

from paretune import masks
from paretune.cuts import Cuts, fold_parametrizations, parametrized
from paretune.errors import InfeasibleError, InputError, names_of, nearest
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._hand_over import hand_over
from paretune.prune._sparse.choice import TARGETS, Choice
from paretune.prune._sparse.units import Unit
from paretune.recipe import Context, Range, Step, StepResult, check_ranges

if TYPE_CHECKING:
    from paretune.task import Task

NO_FASTER = (
    "zeros among the weights do not make a runtime for dense weights faster, such as ONNX Runtime; remove "
    "channels, heads or blocks for that"
)


def weights(
    model: nn.Module,
    *,
    threshold: float | None = None,
    ratio: float | None = None,
    count: int | None = None,
    n_m: tuple[int, int] | None = None,
    norm: str = "l1",
    unit: Unit = "weight",
    scope: str = "global",
    names: Iterable[str] | None = None,
    protect: Iterable[str] = (),
) -> Pruned:
    """Set weights of a copy of a model to zero for good; the model that is given is not changed.

    Give exactly one of
        threshold: units whose norm is at or below it go, in the unit of the weights, at least 0;
        ratio: of the weights, in [0, 1): the units of the lowest norm go, until no further one would fit in it;
        count: so many units of the lowest norm go;
        n_m: of every m weights in a row along the input axis the n largest stay, as (2, 4); of single weights.
    norm: l1 or l2, over a unit: `weight`, `row`, `kernel`, `filter`, or a block (rows, columns).
    scope: what ratio and count are of, and what is compared: the whole model (`global`), each module (`layer`), or
        each tensor. Units that are zero already count.
    names: parameters that may lose weights, by name or glob; None: all of at least two axes (no biases, no norms).
    protect: parameters, or modules with all that is in them, by name or glob, that stay whole.

    The zeros stay zero in every training by paretune, and in others inside `paretune.masks.held(model)`.
    Parametrized modules are folded first. `before` and `after` count params, and those that are not zero. A
    threshold at which every weight would go is an InfeasibleError that tells the norms.
    """
    choice = Choice(threshold=threshold, ratio=ratio, count=count, n_m=n_m, norm=norm, unit=unit, scope=scope)
    model = given(model)
    require_values(model)
    folded = parametrized(model)
    pruned = fold_parametrizations(copied(model), folded)
    chosen = chosen_of(pruned, names, protect)
    gone = choice.gone(chosen)
    before = counts_of(pruned)
    stays = {name: ~mask for name, mask in gone.items()}
    masks.apply(pruned, stays)
    after = counts_of(pruned)
    cuts = Cuts(shapes={}, folded=folded, masks=tuple(masks.Mask.of(name, mask) for name, mask in stays.items()))
    return Pruned(
        model=pruned,
        cuts=cuts,
        unprunable=left_out(pruned, chosen),
        before=before,
        after=after,
        widths={},
        notes=notes_of(pruned, folded, stays, before, after),
    )


def chosen_of(model: nn.Module, names: Iterable[str] | None, protect: Iterable[str]) -> dict[str, Tensor]:
    """Return the parameters that may lose weights, tied ones once."""
    parameters = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() or parameter.is_complex()
    }
    every = dict(model.named_parameters(remove_duplicate=False))
    places = [*every, *(name for name, _ in model.named_modules() if name)]
    wanted = None if names is None else names_of("prune.weights: names", names)
    kept = names_of("prune.weights: protect", protect)
    for field, patterns, known in (("names", wanted or [], places), ("protect", kept, places)):
        for pattern in patterns:
            if not any(fnmatchcase(place, pattern) for place in known):
                raise InputError(
                    f"prune.weights: {field}: '{pattern}' matches nothing of the model.{nearest(pattern, known)}"
                )
    chosen = {
        name: tensor
        for name, tensor in parameters.items()
        if (tensor.dim() > 1 if wanted is None else any(_is_within(name, pattern) for pattern in wanted))
        and not any(_is_within(name, pattern) for pattern in kept)
    }
    if not chosen:
        raise InfeasibleError(
            f"prune.weights: no parameter is left to prune; the model has {', '.join(list(every)[:8]) or 'none'}"
        )
    return chosen


def _is_within(name: str, pattern: str) -> bool:
    """Tell whether a name, or a module that it lies in, matches a pattern."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


def counts_of(model: nn.Module) -> dict[str, int]:
    """Return how many parameters there are, and how many are not zero."""
    parameters = list(model.parameters())
    return {
        "params": sum(parameter.numel() for parameter in parameters),
        "nonzero": sum(int(parameter.count_nonzero()) for parameter in parameters),
    }


def left_out(model: nn.Module, chosen: Mapping[str, Tensor]) -> tuple[tuple[str, str, str], ...]:
    """Return (name, reason, remedy) of the parameters that lose no weights."""
    return tuple(
        (name, "it is not among the weights that may go", f"names: '{name}'")
        for name, _ in model.named_parameters()
        if name not in chosen
    )


def notes_of(
    model: nn.Module,
    folded: tuple[str, ...],
    stays: Mapping[str, Tensor],
    before: Mapping[str, int],
    after: Mapping[str, int],
    remedy: str = "protect them, or scope='layer'",
) -> tuple[str, ...]:
    """Return what the user should know: what zeros are worth, what is empty (and what helps), what was folded."""
    notes = [NO_FASTER]
    total = before["params"] or 1
    notes.append(
        f"{100 - 100 * after['nonzero'] / total:.1f} % of {before['params']} parameters are zero; packed, they "
        f"need about {_packed(model) / 1e3:.1f} KB instead of {_bytes(model) / 1e3:.1f} KB"
    )
    emptied = [name for name, mask in stays.items() if mask.numel() and not bool(mask.any())]
    if emptied:
        notes.append(f"nothing is left of {', '.join(emptied)}: {remedy}")
    if folded:
        notes.append(f"the parametrizations of {', '.join(folded)} were folded into the weights")
    return tuple(notes)


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _packed(model: nn.Module) -> float:
    """Return about how many bytes the parameters need where zeros are left out: where they are, and the rest."""
    needed = 0.0
    for parameter in model.parameters():
        count, rest = parameter.numel(), int(parameter.count_nonzero())
        share = rest / count if count else 0.0
        bits = -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
        needed += min(count * bits / 8 + rest * parameter.element_size(), count * parameter.element_size())
    return needed


@final
@dataclass(frozen=True, kw_only=True)
class Weights(Step):
    """Set single weights, or units of them, to zero by their norm; they stay zero in the steps that follow.

    Batch norm is recalibrated on training samples afterwards. Without a target, half of the weights go.
    """

    name: ClassVar[str] = "prune.weights"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)
    cumulative: ClassVar[bool] = True

    threshold: float | None = None
    """Units whose norm is at or below it go."""
    ratio: Annotated[float | None, Range(0.0, 1.0, high_open=True)] = None
    """Fraction of the weights to set to zero, the smallest."""
    count: Annotated[int | None, Range(0, 10_000_000_000)] = None
    """Units to set to zero, the smallest."""
    n_m: tuple[int, int] | None = None
    """Of every m weights along the input axis the n largest stay: [2, 4]."""
    norm: str = "l1"
    """l1 or l2, over a unit; of single weights they are the same."""
    unit: str | tuple[int, int] = "weight"
    """weight, row, kernel, filter, or a block [rows, columns]."""
    scope: str = "global"
    """What ratio and count are of: `global`, `layer` (each module) or `tensor`."""
    names: tuple[str, ...] | None = None
    """Parameters or modules that may lose weights, by name or glob; by default all tensors of two axes or more."""
    protect: tuple[str, ...] = ()
    """Parameters or modules that stay whole, by name or glob."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm; 0 leaves the statistics as they were."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if all(getattr(self, target) is None for target in TARGETS):
            object.__setattr__(self, "ratio", 0.5)
        Choice(**{field.name: getattr(self, field.name) for field in fields(Choice)})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Set weights to zero, and recalibrate batch norm."""
        how: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "recalibrate"
        }
        pruned = weights(model, **how)
        hand_over(pruned.model, task, context, recalibrate=self.recalibrate)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}})
        details = {"before": pruned.before, "after": pruned.after, "tensors": rows_of(pruned.model)}
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)


def rows_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return one plain row for every masked tensor: its weights, and how many of them are zero."""
    return [
        {"tensor": name, "weights": parameter.numel(), "zero": int((parameter == 0).sum())}
        for name, parameter in masks.masked(model).items()
    ]
