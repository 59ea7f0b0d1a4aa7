"""Resolution: the model looks at smaller images, which cost it quadratically less; a lever beside width and depth.

The scaling becomes part of the model, and of its file: it takes images of the old size, so that data, teacher and
service stay as they are, nobody can feed the wrong size, and the time of the scaling is in every latency measured.
Statistics of batch norm differ at another size and are measured anew; a short training recovers most of the rest.

Sources: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019,
arXiv:1905.11946 (resolution beside width and depth); Touvron et al., "Fixing the train-test resolution
discrepancy", NeurIPS 2019, arXiv:1906.06423 (statistics that change with the size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from torch import nn

from paretune._resized import resized, size_of
from paretune.cuts import Cuts
from paretune.data import call, shapes_of, tensors_of
from paretune.errors import InfeasibleError, InputError, is_number
from paretune.prune._capture.capture import evaluating
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._hand_over import hand_over
from paretune.recipe import Context, Range, Step, StepResult, check_ranges

if TYPE_CHECKING:
    from paretune.task import Task

Size = int | Sequence[int]


def resolution(model: nn.Module, example: Any, *, size: Size | None = None, ratio: float | None = None) -> Pruned:
    """Return a copy of a model that scales its images to a smaller size first; the model given is not changed.

    example: an input as the model takes it: its first tensor is the images, float (n, channels, height, width).
    size: (height, width), or one number for both, in pixels. ratio: instead, what is left of both, in (0, 1).
    A model that does not run at that size, or whose outputs have another shape there, is an InfeasibleError.
    """
    model = given(model)
    require_values(model)
    old = _size(model, example)
    new = _asked(size, ratio, old)
    before = _cost(model, example)
    smaller = resized(copied(model), new)
    _check_runs(model, smaller, example, new)
    return Pruned(
        model=smaller,
        cuts=Cuts(shapes={}, resolution=new),
        unprunable=(),
        before=before,
        after=_cost(smaller, example),
        widths={},
        notes=(f"images of {old[0]}x{old[1]} are scaled to {new[0]}x{new[1]} inside of the model",),
    )


def _size(model: nn.Module, example: Any) -> tuple[int, int]:
    """Return height and width as the model looks at its images now."""
    tensors = tensors_of(example)
    if isinstance(example, dict) or not tensors or tensors[0].dim() != 4 or not tensors[0].is_floating_point():
        raise InputError(
            "prune.resolution: the model's first positional input must be images, float (n, channels, height, "
            f"width), and the example is {shapes_of(example)}"
        )
    height, width = tensors[0].shape[2:]
    return size_of(model) or (height, width)


def _asked(size: Size | None, ratio: float | None, old: tuple[int, int]) -> tuple[int, int]:
    if (size is None) == (ratio is None):
        raise InputError(
            "prune.resolution: give size, in pixels, or ratio, what is left of it; exactly one of the two"
        )
    if ratio is not None:
        if not is_number(ratio) or not 0 < ratio < 1:
            raise InputError(
                f"prune.resolution: ratio={ratio!r} must be above 0 and below 1; ratio=0.75 leaves three "
                "quarters of height and width"
            )
        return max(1, round(ratio * old[0])), max(1, round(ratio * old[1]))
    assert size is not None
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    whole = len(sides) == 2 and all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or any(side < 1 for side in sides):
        raise InputError(
            f"prune.resolution: size={size!r} must be (height, width) in pixels, or one whole number for both, at "
            "least 1"
        )
    if any(new > now for new, now in zip(sides, old, strict=True)):
        raise InputError(
            f"prune.resolution: size={size!r} must not be larger than what the model looks at now, "
            f"{old[0]}x{old[1]}"
        )
    return int(sides[0]), int(sides[1])


def _check_runs(model: nn.Module, smaller: nn.Module, example: Any, new: tuple[int, int]) -> None:
    """Raise an InfeasibleError where the model does not admit another size."""
    refused = f"prune.resolution: the model does not admit images of {new[0]}x{new[1]}"
    with evaluating(model), evaluating(smaller):
        whole = call(model, example)
        try:
            seen = call(smaller, example)
        except Exception as error:  # whatever the user's code raises
            raise InfeasibleError(
                f"{refused}: {(str(error) or type(error).__name__).splitlines()[0]}. It has fixed positions, "
                "or a layer after flatten counts on them; pool to a fixed size before it "
                "(nn.AdaptiveAvgPool2d), or choose a size that its strides and patches divide"
            ) from error
    if [tensor.shape for tensor in tensors_of(whole)] != [tensor.shape for tensor in tensors_of(seen)]:
        raise InfeasibleError(
            f"{refused}: its outputs would be {shapes_of(seen)} instead of {shapes_of(whole)}; they follow the "
            "size of the images"
        )


def _cost(model: nn.Module, example: Any) -> dict[str, int]:
    from paretune.measure import macs, parameters

    return {"macs": macs(model, example), "params": parameters(model)}


@final
@dataclass(frozen=True, kw_only=True)
class Resolution(Step):
    """Let the model scale its images down first, then recalibrate batch norm.

    Without a size, three quarters of height and width are left.
    """

    name: ClassVar[str] = "prune.resolution"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)
    of_whole: ClassVar[bool] = True
    ratio_stays: ClassVar[bool] = True

    size: int | tuple[int, int] | None = None
    """Height and width in pixels: [24, 24], or one number for both."""
    ratio: Annotated[float | None, Range(0.0, 1.0, low_open=True, high_open=True)] = None
    """What is left of height and width."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm; 0 leaves the statistics as they were."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is None and self.ratio is None:
            object.__setattr__(self, "ratio", 0.75)
        _asked(self.size, self.ratio, (2**31, 2**31))

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Scale, and recalibrate batch norm."""
        size, ratio = self.size, self.ratio
        if context.whole is not None and ratio is not None:
            size, ratio = _asked(None, ratio, _size(context.whole, task.inputs())), None
        made = resolution(model, task.inputs(), size=size, ratio=ratio)
        hand_over(made.model, task, context, recalibrate=self.recalibrate)
        context.emit("pruned", {"before": made.before, "after": made.after, "widths": {}})
        details = {"before": made.before, "after": made.after, "size": list(size_of(made.model) or ())}
        return StepResult(made.model, (made.cuts,), made.notes, details)
