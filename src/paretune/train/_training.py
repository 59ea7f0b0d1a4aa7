"""How to train: the fields that `fit` and every step that trains have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from paretune.errors import RecipeError, nearest
from paretune.recipe import Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class Training:
    """Epochs, optimizer, schedule, clipping, stopping, and how to compute; validated when it is built."""

    name: ClassVar[str] = "fit"

    epochs: Annotated[int, Range(1, 1000)] = 10
    """Passes over the training data."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """`sgd` wants a learning rate 10 to 100 times that of the other two."""
    lr: Annotated[float, Range(0, 10, low_open=True)] = 1e-3
    """The learning rate after warm-up."""
    weight_decay: Annotated[float, Range(0, 1)] = 1e-4
    """For tensors of two axes and more; biases and the scales of norms have none."""
    momentum: Annotated[float, Range(0, 1, high_open=True)] = 0.9
    """Of SGD; the others have none."""
    warmup: Annotated[float, Range(0, 1000)] = 0.5
    """Epochs in which the learning rate climbs to `lr`; fewer than `epochs`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after warm-up."""
    clip_norm: Annotated[float | None, Range(0, 1e6, low_open=True)] = None
    """Largest Euclidean norm of the whole gradient; a longer one is scaled down to it."""
    clip_value: Annotated[float | None, Range(0, 1e6, low_open=True)] = None
    """Largest absolute value of an entry of the gradient; applied before `clip_norm`."""
    label_smoothing: Annotated[float, Range(0, 1, high_open=True)] = 0.0
    """Of the loss "cross_entropy": the probability that is spread evenly over all classes."""
    patience: Annotated[int | None, Range(1, 1000)] = None
    """Stop after so many epochs without a better validation metric; None never stops early."""
    batch_size: Annotated[int | None, Range(1, 65536)] = None
    """None takes the task's own."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` times a few batches; bfloat16 is autocast, the weights stay in float32."""
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Memory layout of images and kernels; `auto` times a few batches."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.warmup >= self.epochs:
            raise RecipeError(
                f"{self.name}: warmup={self.warmup:g} must be less than epochs={self.epochs}: "
                "the learning rate would never reach lr"
            )


def refuse_patience(where: str, training: Training, until: str) -> None:
    """Raise a RecipeError for `patience` in a training that has its effect only when it is complete.

    until: what must have happened before it may end.
    """
    if training.patience is not None:
        raise RecipeError(
            f"{where}: patience={training.patience} could end the training before {until}; leave it out, and give "
            "fewer epochs"
        )


def training_of(where: str, given: Mapping[str, Any]) -> Training:
    """Return the settings of a training; a name that is none is a RecipeError with the nearest right one."""
    known = [field.name for field in fields(Training)]
    for name in given:
        if name not in known:
            raise RecipeError(
                f"{where}: '{name}' is neither its own argument nor one of a training.{nearest(name, known)} "
                f"Those are {', '.join(known)}"
            )
    return Training(**given)
