"""What a model loses once an activation is a line: its loss on data with labels, else the error of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from paretune.data import Batch, call, tensors_of
from paretune.errors import InputError
from paretune.prune._float64 import in_float64

Loss = Callable[[Any, Any], Tensor]
Judge = Callable[[nn.Module], float]


def judge_of(model: nn.Module, batches: Sequence[Batch], loss: Loss | None) -> Judge:
    """Return what judges a changed copy of a model, in eval mode; infinite where what it gives is not finite.

    With a loss it is the mean loss over the samples. Without, it is the squared distance between the outputs and
    those of the model as it is now, over the squared size of those: 0 for the model itself.
    """
    if loss is not None:
        return lambda changed: _mean_loss(changed, batches, loss)
    wanted = [outputs_of(model, inputs) for inputs, _ in batches]
    size = sum(float(in_float64(tensor).square().sum()) for outputs in wanted for tensor in outputs)

    def error(changed: nn.Module) -> float:
        total = 0.0
        for (inputs, _), outputs in zip(batches, wanted, strict=True):
            for tensor, expected in zip(outputs_of(changed, inputs), outputs, strict=True):
                total += float((in_float64(tensor) - in_float64(expected)).square().sum())
        return _finite(total / size if size else total)

    return error


def _mean_loss(model: nn.Module, batches: Sequence[Batch], loss: Loss) -> float:
    total, samples = 0.0, 0
    for inputs, target in batches:
        if target is None:
            raise InputError(
                "prune.activations: a loss needs targets, and the data yield inputs alone; without loss= the "
                "error of the outputs is measured"
            )
        count = len(tensors_of(inputs)[0])
        total += float(loss(call(model, inputs), target)) * count
        samples += count
    return _finite(total / samples)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return the tensors of floating point that a model gives, in order."""
    leaves = _pytree.tree_leaves(call(model, inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference of outputs, over the largest output."""
    size = max((float(tensor.abs().max()) for tensor in expected if tensor.numel()), default=0.0)
    pairs = zip(expected, found, strict=True)
    if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
        return math.inf
    worst = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    return _finite(worst / size if size else worst)


def outputs_in_float64(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return what a model in float64 gives for inputs in float64."""
    with torch.no_grad():
        return [tensor.double() for tensor in outputs_of(model, inputs)]
