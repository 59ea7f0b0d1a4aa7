"""Operators that work elementwise: the output has the axes of the inputs, broadcast against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, shape_of
from paretune.prune._couplings.units import Axis


def elementwise(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple all tensor arguments, aligned from the last axis."""
    operands = [state.axes(a) for a in _nodes(arguments) if isinstance(a.meta.get("val"), torch.Tensor)]
    axes = broadcast(state, node, operands, shape_of(node))
    name = node.target._schema.name.removeprefix("aten::").rstrip("_")  # type: ignore[union-attr]
    if name == "mul":  # zero times anything is zero
        return [_vanishing(state, operands, index - len(axes), axis) for index, axis in enumerate(axes)]
    if name in _KEEP_ZERO:
        return axes
    return [axis.copy() if state.vanishes(axis) else axis for axis in axes]


_KEEP_ZERO = ("neg", "relu", "tanh", "abs", "silu", "sign", "erf")


def _vanishing(state: Couplings, operands: list[Axes], offset: int, axis: Axis) -> Axis:
    met = [operand[offset] for operand in operands if len(operand) >= -offset]
    return next((other for other in met if state.vanishes(other) and len(other) == len(axis)), axis)


def _nodes(arguments: dict[str, Any]) -> list[fx.Node]:
    flat = [
        item for value in arguments.values() for item in (value if isinstance(value, list | tuple) else [value])
    ]
    return [item for item in flat if isinstance(item, fx.Node)]


def broadcast(state: Couplings, node: fx.Node, operands: list[Axes], shape: tuple[int, ...]) -> Axes:
    """Return the axes of the broadcast result; positions that meet are coupled.

    An axis of size 1 that is stretched cannot be cut to nothing: it is pinned, and not coupled.
    """
    if any(len(operand) > len(shape) for operand in operands):
        raise NoRule
    out: Axes = []
    for position, size in enumerate(shape):
        met = [
            operand[len(operand) - len(shape) + position]
            for operand in operands
            if len(operand) - len(shape) + position >= 0
        ]
        for axis in met:
            if len(axis) == 1 and size > 1:
                state.pin(node, axis, "stretches an axis of size 1")
        out.append(_meet(state, node, [axis for axis in met if len(axis) == size], size))
    return out


def _meet(state: Couplings, node: fx.Node, axes: list[Axis], size: int) -> Axis:
    if not axes:
        return state.fixed(node, size)
    for axis in axes[1:]:
        state.union(axes[0], axis)
    free = [axis for axis in axes if (axis >= 0).any()]
    # positions that are fixed in one operand are pinned in the other: take the units where there are any
    return (
        np.maximum.reduce(free) if len(free) > 1 and any((axis < 0).any() for axis in free) else (free or axes)[0]
    )


def unchanged(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Return the axes of the first argument: casts, copies, dropout, and constants made like a tensor."""
    first = next(iter(arguments.values()))
    if len(state.axes(first)) != len(shape_of(node)):
        raise NoRule
    return state.axes(first)


def unchanged_pair(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Return the axes of the first argument for both outputs (native_dropout)."""
    axes = state.axes(next(iter(arguments.values())))
    return [axes, axes]


def per_channel(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple the weight of a PReLU, one number per channel (axis 1), with the channels."""
    axes = state.axes(arguments["self"])
    weight = state.axes(arguments["weight"])[0] if state.axes(arguments["weight"]) else None
    if weight is not None and len(weight) > 1:
        state.union(axes[1 if len(axes) > 1 else 0], weight)
    return axes


def constant(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Return open axes for a tensor that is made of numbers: what is not needed of it is left out."""
    return [state.open(size) if size > 1 else state.fixed(node, 1) for size in shape_of(node)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "add",
            "sub",
            "mul",
            "div",
            "copy",
            "hardswish",
            "where",
            "masked_fill",
            "clamp",
            "silu",
            "lerp",
            "addcmul",
            "addcdiv",
            "maximum",
            "minimum",
            "pow",
            "floor_divide",
        ),
        elementwise,
    ),
    **dict.fromkeys(
        (
            "clone",
            "contiguous",
            "to",
            "_to_copy",
            "type_as",
            "alias",
            "detach",
            "lift_fresh_copy",
            "lift_fresh",
            "dropout",
            "feature_dropout",
            "alpha_dropout",
            "feature_alpha_dropout",
            "bernoulli",
            "zeros_like",
            "ones_like",
            "full_like",
            "empty_like",
            "rand_like",
            "randn_like",
            "zero",
            "fill",
            "relu",
            "relu6",
            "hardtanh",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "mish",
            "rrelu",
            "nan_to_num",
            "conj",
            "resolve_conj",
            "resolve_neg",
            "positive",
            "hardsigmoid",
            "hardshrink",
            "softshrink",
            "threshold",
            "log_sigmoid",
            "normal",
            "uniform",
            "exponential",
        ),
        unchanged,
    ),
    "native_dropout": unchanged_pair,
    "prelu": per_channel,
    "_prelu_kernel": elementwise,
    **dict.fromkeys(
        (
            "zeros",
            "ones",
            "full",
            "empty",
            "rand",
            "randn",
            "arange",
            "linspace",
            "eye",
            "scalar_tensor",
            "new_zeros",
            "new_ones",
            "new_full",
            "new_empty",
        ),
        constant,
    ),
}
