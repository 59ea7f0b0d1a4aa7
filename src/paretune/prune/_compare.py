"""Comparison: whether a model computes what is expected of it, and in words what it does instead."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from paretune.data import call, kept_random_state, map_tensors
from paretune.prune._capture.capture import evaluating, in_words

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative to the largest output. What is above it in float32 may still be rounding: it is judged in float64."""
_ROUNDED, _COARSE = 1e-6, 1e-2
"""In float64, of models that take a norm or a softmax in float32 anyway; and where there is no float64."""
_FILLED = 1e5
"""Outputs of this size that stay as they are may have been filled in, to mask something."""


def outputs(model: nn.Module, example: Any, seed: int = 0) -> list[torch.Tensor]:
    """Return every output tensor in eval mode, with the same random numbers each time."""
    with evaluating(model), kept_random_state():
        torch.manual_seed(seed)
        return tensors_in(call(model, example))


def tensors_in(output: Any) -> list[torch.Tensor]:
    """Return every tensor of an output, as torch.export sees outputs."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


class Difference(NamedTuple):
    """How a model differs from what is expected of it."""

    words: str
    in_values: bool = False
    """True where it runs and gives the right shapes, and only its numbers are others: it may be rounding."""


def difference(
    expected: list[torch.Tensor], model: nn.Module, example: Any, tolerance: float | None = None
) -> Difference | None:
    """Return how a model's outputs differ from what is expected of it, None where they do not.

    tolerance: relative to the largest output; by default that of each output's type.
    """
    try:
        after = outputs(model, example)
    except Exception as error:
        return Difference(in_words(error))
    shapes = [[tuple(t.shape) for t in tensors] for tensors in (expected, after)]
    if shapes[0] != shapes[1]:
        return Difference(f"its outputs change from {shapes[0]} to {shapes[1]}")
    for a, b in zip(expected, after, strict=True):
        if (gap := relative_gap(a, b)) > (tolerance or _TOLERANCE.get(a.dtype, 1e-5)):
            other = f"it computes another function than the masked model (relative difference {gap:.1e})"
            return Difference(other, in_values=True)
    return None


def mistaken(model: nn.Module, graph: nn.Module, example: Any) -> str:
    """Return in words how a captured graph differs from its model, "" where it does not but for rounding."""
    expected = outputs(model, example)
    found = difference(expected, graph, example)
    if found is not None and found.in_values:
        again = outputs(model, example, seed=1)
        if any(relative_gap(a, b) > 1e-6 for a, b in zip(expected, again, strict=True)):
            return ""  # it draws random numbers, and not all in the same order
        try:
            wide = map_tensors(lambda t: t.double() if t.dtype == torch.float32 else t, example)
            models = [copy.deepcopy(each).double() for each in (model, graph)]
            found = difference(outputs(models[0], wide), models[1], wide, _ROUNDED)
        except (RuntimeError, TypeError, ValueError):  # float32 that is written in the code, or no float64 there
            found = difference(expected, graph, example, _COARSE)
    return "" if found is None else f"the captured graph is not the model ({found.words})"


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max |a - b| / max |a|; 0 for equal tensors, whatever they hold.

    What the code fills in (NaN, infinity, the least number of a type, -1e9) must be in the same places of both; it
    says nothing of the size of the others, next to which any difference would be small. Of whole numbers (a class,
    a mask) it is the part that differs, less one in a hundred: rounding may turn a few.
    """
    if torch.equal(a, b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return max(0.0, float((a != b).double().mean()) - 0.01)
    a, b = ((torch.view_as_real(t) if t.is_complex() else t).to("cpu", torch.float64) for t in (a, b))
    if not torch.equal(*(torch.where(t.isfinite(), 0.0, t.nan_to_num(0.5)) for t in (a, b))):
        return float("inf")
    filled = ~a.isfinite() | ((a.abs() >= _FILLED) & ((a - b).abs() <= 1e-6 * a.abs()))
    a, b = a[~filled], b[~filled]
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) if a.numel() else 0.0
