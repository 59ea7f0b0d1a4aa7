"""Modules that a manifest of cuts may put in another's place, made from plain numbers; see `cuts.Replaced`.

`Line` and `Clip` are those that PyTorch has not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from paretune import masks
from paretune.errors import SurgeryError


class Line(nn.Module):
    """Return scale * x + shift, with one scale and one shift for each channel: a linearised activation."""

    def __init__(self, channels: int, trailing: int) -> None:
        """Begin as y = x. trailing: how many axes come after that of the channels; 1 channel stands for all."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.trailing = trailing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor like x."""
        shape = (-1, *[1] * self.trailing)
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)


class Clip(nn.Module):
    """Return x between two ends that are learned: a value beyond one hands its gradient on to that end.

    Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018, arXiv:1805.06085,
    section 3, equation 2, without the quantization. Where the ends have crossed, the high one holds.
    """

    def __init__(self, low: float | None, high: float | None) -> None:
        """Begin with these ends; None: no bound."""
        super().__init__()
        self.low = None if low is None else nn.Parameter(torch.tensor(float(low)))
        self.high = None if high is None else nn.Parameter(torch.tensor(float(high)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor like x; NaN stays NaN."""
        x = x if self.low is None else torch.where(x < self.low, self.low, x)
        return x if self.high is None else torch.where(x > self.high, self.high, x)


def _range(
    old: nn.Module, *, low: float | None, high: float | None, threshold: float | None, learn: bool = False
) -> nn.Module:
    """Return the old module followed by its range: clipped first, then small values to zero."""
    behind: list[nn.Module] = []
    if learn:
        behind.append(Clip(low, high))
    elif low is not None or high is not None:
        infinity = float("inf")
        behind.append(nn.Hardtanh(-infinity if low is None else low, infinity if high is None else high))
    if threshold is not None:
        behind.append(nn.Hardshrink(threshold))
    return nn.Sequential(old, *behind)


LAYERS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


def _new(old: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    if kind == "range":
        return _range(old, **arguments)
    if kind == "line":
        return Line(**arguments)
    return LAYERS[kind](**arguments, device="meta").to_empty(device="cpu")  # draws no random numbers


def made(model: nn.Module, name: str, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return what takes the place of a module of the model, in its mode, on its device and in its dtype.

    Weights are zeros until they are loaded (a line is y = x). Another kind than those known here, and arguments
    that it does not take, are a SurgeryError.
    """
    old = model.get_submodule(name)
    try:
        if not all(_is_plain(value) for value in arguments.values()):
            raise TypeError(f"arguments {arguments!r} must be plain numbers")
        new = _new(old, kind, arguments)
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise SurgeryError(
            f"this manifest of cuts is damaged: it puts a '{kind}' in the place of '{name}' ({error}). Give the "
            "one that `cuts.to_json()` wrote"
        ) from error
    like = next((t for t in itertools.chain(old.parameters(), model.parameters()) if t.is_floating_point()), None)
    if kind in LAYERS:
        for parameter in new.parameters():
            nn.init.zeros_(parameter)
    learns = [parameter.requires_grad for parameter in old.parameters()]
    if kind in LAYERS and learns:
        new.requires_grad_(any(learns))  # what was frozen stays frozen
    if kind in LAYERS and getattr(old, "weight", new.weight).shape == new.weight.shape:
        masks.carry(old, new)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    return new.train(old.training)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(type(item) is int for item in value)
    return value is None or isinstance(value, bool | int | float)
