"""Operators that reduce over axes, or normalise along them without parameters: those axes cannot be cut.

A mean over space leaves the channels alone. A sum over the channels has no parameter that could be cut with a
channel: removing one would change the sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from paretune.prune._couplings import Axes, Couplings, NoRule, Rule, axis_index
from paretune.prune._units import Axis


def reduce(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """Drop the reduced axes, or keep them with size 1."""
    axes = state.axes(next(iter(arguments.values())))
    dims = _dims(arguments, len(axes))
    for dim in dims:
        state.pin(node, axes[dim], "reduces over this axis", "a layer with weights in its place")
    out: list[Axis] = []
    for dim, axis in enumerate(axes):
        if dim not in dims:
            out.append(axis)
        elif arguments.get("keepdim"):
            out.append(state.fixed(node, 1))
    sample = node.meta["val"]
    return out if isinstance(sample, torch.Tensor) else [list(out) for _ in sample]


def along(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """Keep all axes; those that the operator works along are pinned."""
    axes = state.axes(next(iter(arguments.values())))
    for dim in _dims(arguments, len(axes)):
        state.pin(node, axes[dim], "works along this axis", "another axis")
    sample = node.meta["val"]
    if isinstance(sample, torch.Tensor):
        return axes
    if any(len(part.shape) != len(axes) for part in sample):
        raise NoRule
    return [list(axes) for _ in sample]


def _dims(arguments: dict[str, Any], rank: int) -> set[int]:
    dims = arguments.get("dim")
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return set(range(rank))
    return {axis_index(dim, rank) for dim in (dims if isinstance(dims, list | tuple) else [dims])}


def glu(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Gate one half of an axis by the other: both halves lose the same positions."""
    axes = list(state.axes(arguments["self"]))
    dim = axis_index(arguments["dim"], len(axes))
    first, second = axes[dim].reshape(2, -1)
    state.union(first, second)
    axes[dim] = first
    return axes


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "std",
            "var",
            "std_mean",
            "var_mean",
            "any",
            "all",
            "prod",
            "argmax",
            "argmin",
            "norm",
            "linalg_vector_norm",
            "logsumexp",
            "nansum",
            "median",
        ),
        reduce,
    ),
    **dict.fromkeys(
        ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argsort"), along
    ),
    "glu": glu,
}
