"""Activations keep a range of their values only: what is outside is clipped, what is small is zero.

Each activation is followed by a clip to [low, high] (`nn.Hardtanh`), given or measured as quantiles of its values
on data, and by `nn.Hardshrink`, which sets values of at most the threshold, in absolute value, to zero. Zeros
among activations make a runtime for dense ones no faster. A clip at a high quantile leaves int8 a finer step. The
bounds are constants, or parameters that a later training learns (`Clip`).

Sources: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
arXiv:1805.06085, which learns the clip. Kurtz et al., "Inducing and Exploiting Activation Sparsity for Fast
Inference on Deep Neural Networks", ICML 2020, which thresholds ReLUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.cuts import Cuts, Replaced, replay
from paretune.data import Batch, call
from paretune.errors import InfeasibleError, InputError, RunError, check_whole, is_number, names_of
from paretune.measure import macs as count_macs
from paretune.measure import parameters
from paretune.prune._activations.activations import activations_of, unprotected
from paretune.prune._activations.flow import flow_of
from paretune.prune._capture.capture import evaluating, on_device_of, try_forward
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._depth.blocks import calibration, drawn, passes
from paretune.prune._hand_over import hand_over, rows_of
from paretune.recipe import Context, Range, Step, StepResult, check_ranges
from paretune.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = "prune.activation_range"
MOST = 4_000_000
"""Values of one activation that quantiles are taken of; of more, evenly spaced ones."""


@dataclass(frozen=True)
class Kept:
    """What one activation keeps, as measured on the data."""

    activation: str
    low: float | None
    """Values below it become it; None: no bound."""
    high: float | None
    threshold: float | None
    """Values of at most this, in absolute value, become zero."""
    zeros_before: float
    """The fraction of its values that are zero, in the model as given."""
    zeros_after: float
    """The same in the result, where the activations before it have their ranges too."""


@dataclass(frozen=True)
class Ranged(Pruned):
    """A copy of a model whose activations keep a range of their values."""

    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range that activations keep."""

    low: float | None = None
    high: float | None = None
    quantiles: tuple[float, float] | None = None
    threshold: float | None = None
    learn: bool = False

    def __post_init__(self) -> None:
        if self.learn and self.low is None and self.high is None and self.quantiles is None:
            raise InputError(f"{WHERE}: learn=True needs bounds to begin with: give low, high or quantiles")
        values = {name: getattr(self, name) for name in ("low", "high", "threshold")}
        if all(value is None for value in (*values.values(), self.quantiles)):
            raise InputError(f"{WHERE}: give low, high, quantiles or threshold; got none")
        for name, value in values.items():
            if value is not None and not (is_number(value) and math.isfinite(value)):
                raise InputError(
                    f"{WHERE}: {name}={value!r} must be a finite number, in the unit of the activations"
                )
        if self.threshold is not None and self.threshold <= 0:
            raise InputError(
                f"{WHERE}: threshold={self.threshold!r} must be above 0: values of at most it become zero"
            )
        if self.quantiles is not None:
            self._check_quantiles()
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise InputError(
                f"{WHERE}: low={self.low!r} must be below high={self.high!r}: this range of activations is empty"
            )
        self.require("", self.low, self.high, InputError)

    def _check_quantiles(self) -> None:
        if self.low is not None or self.high is not None:
            raise InputError(f"{WHERE}: give low and high, or quantiles, which measure them; got both")
        pair = self.quantiles
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(map(is_number, pair))):
            raise InputError(f"{WHERE}: quantiles={pair!r} must be two numbers from 0 to 1, as (0.0, 0.999)")
        if not 0 <= pair[0] < pair[1] <= 1:
            raise InputError(
                f"{WHERE}: quantiles={tuple(pair)!r} must rise, from 0 to 1 at most: else the range of "
                "activations is empty; (0.0, 0.999) clips the highest thousandth"
            )

    def require(self, of: str, low: float | None, high: float | None, error: type[Exception]) -> None:
        """Raise an error where nothing but one value is left of a range."""
        ends = [end for end in (low, high) if end is not None]
        if len(ends) == 2 and low == high:
            raise error(
                f"{WHERE}: the quantiles {self.quantiles} of {of} are both {low:g}: its range is empty. Take "
                f"quantiles further apart, or protect='{of}'"
            )
        if self.threshold is not None and len(ends) == 2 and max(map(abs, ends)) <= self.threshold:
            raise error(
                f"{WHERE}: threshold={self.threshold:g} sets all of [{ends[0]:g}, {ends[1]:g}]"
                f"{f', the range of {of},' if of else ''} to zero: nothing is left of it. Take a lower threshold"
            )


def activation_range(
    model: nn.Module,
    example: Any,
    *,
    data: Any,
    low: float | None = None,
    high: float | None = None,
    quantiles: tuple[float, float] | None = None,
    threshold: float | None = None,
    learn: bool = False,
    protect: Iterable[str] = (),
    samples: int | None = None,
    seed: int = 0,
) -> Ranged:
    """Let the activations of a copy of a model keep a range of values; the model that is given is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
    data: calibration data, as a Task takes them, for the quantiles and for the sparsity that is reported; all of
        them are used, or so many samples, drawn by the seed.
    Give at least one of
        low, high: values outside become the nearer end;
        quantiles: of the values of each activation on the data, (0.0, 0.999), in the place of low and high;
        threshold: values of at most this, in absolute value, become zero, after the clip.
    learn: the bounds are parameters, which the next training learns with the weights.
    protect: activations, or modules with all that is in them, by name or glob, that stay as they are.

    What can have a range is what `prune.activations` can remove. A range that is empty is refused: an InputError
    where it was given, an InfeasibleError where it was measured.
    """
    check_whole(f"{WHERE}: samples", samples)
    check_whole(f"{WHERE}: seed", seed, least=0)
    bounds = Bounds(low=low, high=high, quantiles=quantiles, threshold=threshold, learn=learn)
    protected = names_of(f"{WHERE}: protect", protect)
    return _ranged(model, example, bounds, protected, drawn(calibration(data, samples, seed)))


def _ranged(
    model: nn.Module, example: Any, bounds: Bounds, protect: Sequence[str], batches: Sequence[Batch]
) -> Ranged:
    model = given(model)
    require_values(model)
    example = on_device_of(model, example)
    inputs = [on_device_of(model, part) for part, _ in batches]
    trial = copied(model)
    with evaluating(trial):
        for part in (example, inputs[0]):
            try_forward(trial, part)
        able, unprunable = activations_of(trial, flow_of(trial, example))
        names = unprotected(WHERE, able, protect, unprunable)
        before = _seen(trial, names, inputs, keep=bounds.quantiles is not None)
        macs = count_macs(trial, example)
    ends = {name: _ends(name, bounds, seen) for name, seen in before.items()}
    specs = {
        name: {"low": low, "high": high, "threshold": bounds.threshold, "learn": bounds.learn}
        for name, (low, high) in ends.items()
    }
    cuts = Cuts(shapes={}, replaced=tuple(Replaced(name, "range", spec) for name, spec in specs.items()))
    pruned = replay(copied(model), cuts)
    with evaluating(pruned):
        after = _seen(pruned, names, inputs, keep=False)
    kept = tuple(
        Kept(name, *ends[name], bounds.threshold, before[name].sparsity, after[name].sparsity) for name in names
    )
    return Ranged(
        model=pruned,
        cuts=cuts,
        unprunable=unprunable,
        before={"macs": macs, "params": parameters(model)},
        after={"macs": macs, "params": parameters(pruned)},
        widths={},
        notes=_notes(kept),
        kept=kept,
    )


@dataclass
class _Seen:
    """What was seen of the values of one activation."""

    values: int = 0
    zeros: int = 0
    kept: list[NDArray[np.float32]] = field(default_factory=list)
    """The values themselves, for quantiles."""

    @property
    def sparsity(self) -> float:
        return self.zeros / self.values if self.values else 0.0


def _seen(model: nn.Module, names: Sequence[str], inputs: Sequence[Any], keep: bool) -> dict[str, _Seen]:
    """Run the model over the data, and return what each activation gave."""
    found = {name: _Seen() for name in names}

    def watch(seen: _Seen) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            seen.values += output.numel()
            seen.zeros += output.numel() - int(output.count_nonzero())
            if keep:
                every = -(-output.numel() * len(inputs) // MOST)
                seen.kept.append(output.detach().flatten()[::every].float().cpu().numpy())

        return look

    with ExitStack() as hooks:
        for name, seen in found.items():
            hooks.callback(model.get_submodule(name).register_forward_hook(watch(seen)).remove)
        for part in inputs:
            call(model, part)
    return found


def _ends(name: str, bounds: Bounds, seen: _Seen) -> tuple[float | None, float | None]:
    """Return the low and the high end of one activation's range, as given or as measured."""
    if bounds.quantiles is None:
        return bounds.low, bounds.high
    low, high = (float(value) for value in np.quantile(np.concatenate(seen.kept), bounds.quantiles))
    if not math.isfinite(low) or not math.isfinite(high):
        raise RunError(f"{WHERE}: the quantiles of {name} are {low:g} and {high:g}: look for NaN in the data")
    bounds.require(name, low, high, InfeasibleError)
    return low, high


def _notes(kept: Sequence[Kept]) -> tuple[str, ...]:
    """Return what the user should know of zeros, and of activations that give nothing else any more."""
    notes = [
        f"{row.activation}: {100 * row.zeros_before:.1f} % of its values were zero, "
        f"and now {100 * row.zeros_after:.1f} %"
        for row in kept
        if row.zeros_after != row.zeros_before
    ]
    empty = [row.activation for row in kept if row.zeros_after == 1 > row.zeros_before]
    if empty:
        notes.append(f"nothing but zeros is left of {', '.join(empty)}: a lower threshold, or protect it")
    if any(row.threshold is not None for row in kept):
        notes.append("zeros among activations do not make a runtime for dense ones faster, such as ONNX Runtime")
    return tuple(notes)


@final
@dataclass(frozen=True, kw_only=True)
class ActivationRange(Step):
    """Clip each activation to a range, given or of quantiles, and set its small values to zero.

    Quantiles and the sparsity that is reported are measured on training samples. Without a range, the highest
    thousandth of the values of each activation is clipped.
    """

    name: ClassVar[str] = "prune.activation_range"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)

    low: float | None = None
    """Values below it become it."""
    high: float | None = None
    """Values above it become it."""
    quantiles: tuple[float, float] | None = None
    """Of the values of each activation, in the place of low and high: [0.0, 0.999]."""
    threshold: float | None = None
    """Values of at most this, in absolute value, become zero."""
    learn: bool = False
    """The bounds are parameters, which the next training step learns with the weights."""
    protect: tuple[str, ...] = ()
    """Activations that stay as they are, by name or glob."""
    samples: Annotated[int, Range(1, 1_000_000)] = 256
    """Training samples that quantiles and sparsity are measured on."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if all(getattr(self, name) is None for name in ("low", "high", "quantiles", "threshold")):
            object.__setattr__(self, "quantiles", (0.0, 0.999))
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds(**{field.name: getattr(self, field.name) for field in fields(Bounds)})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Measure, and put the ranges behind the activations."""
        batches = drawn(passes(task.data("train"), self.samples, context.seed))
        pruned = _ranged(model.to(context.device), task.inputs(), self._bounds(), self.protect, batches)
        hand_over(pruned.model, task, context, recalibrate=0)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}})
        details = {
            "before": pruned.before,
            "after": pruned.after,
            "activations": [asdict(row) for row in pruned.kept],
            "unprunable": rows_of(pruned.unprunable),
        }
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)
