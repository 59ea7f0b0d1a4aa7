"""Operators that read or write positions by number: indexing, gathering, scattering.

Where the numbers are a constant of the model (a permutation of the channels) they say which position comes from
where; where they are computed, the axis that is read by number cannot be cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, axis_index, shape_of
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.rules.pointwise import broadcast
from paretune.prune._couplings.units import Axis


def index(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Index with tensors, as numpy does: their axes stand where the first indexed axis was, or in front."""
    axes, indices = state.axes(arguments["self"]), list(arguments["indices"])
    indices += [None] * (len(axes) - len(indices))
    used = [dim for dim, tensor in enumerate(indices) if tensor is not None]
    tensors = [indices[dim] for dim in used]
    if any(tensor.meta["val"].dtype in (torch.bool, torch.uint8) for tensor in tensors):
        raise NoRule
    if len(used) == 1 and (known := constant_of(state, tensors[0])) is not None and known.ndim == 1:
        return [*axes[: used[0]], axes[used[0]][known], *axes[used[0] + 1 :]]
    for dim in used:
        read_by_number(state, node, axes[dim], indices[dim])
    shape = np.broadcast_shapes(*(tuple(tensor.meta["val"].shape) for tensor in tensors))
    picked = broadcast(state, node, [state.axes(tensor) for tensor in tensors], tuple(shape))
    rest = [axis for dim, axis in enumerate(axes) if dim not in used]
    front = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    return [*rest[:front], *picked, *rest[front:]]


def index_select(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read positions of one axis."""
    axes = list(state.axes(arguments["self"]))
    dim, known = axis_index(arguments["dim"], len(axes)), constant_of(state, arguments["index"])
    if known is not None:
        axes[dim] = axes[dim][known]
    else:
        read_by_number(state, node, axes[dim], arguments["index"])
        axes[dim] = state.fixed(node, shape_of(node)[dim])
    return axes


def read_by_number(state: Couplings, node: fx.Node, axis: Axis, numbers: fx.Node) -> None:
    """State that an axis is read at computed positions: it is what topk chose from, or it cannot be cut."""
    if (chosen := state.pointers.get(numbers)) is not None and len(chosen) == len(axis):
        state.union(axis, chosen)
    else:
        state.pin(node, axis, "reads this axis by number", "numbers that are a constant of the model")


def gather(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read positions of one axis, chosen for every position of the others."""
    axes, numbers = state.axes(arguments["self"]), arguments["index" if "index" in arguments else "indices"]
    chosen = state.axes(numbers)
    if arguments["dim"] is None or len(axes) != len(chosen):
        raise NoRule
    _by_number(state, node, axes, chosen, axis_index(arguments["dim"], len(axes)), numbers)
    return chosen


def scatter(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Write positions of one axis, chosen for every position of the others."""
    axes, chosen = state.axes(arguments["self"]), state.axes(arguments["index"])
    dim = axis_index(arguments["dim"], len(axes))
    _by_number(state, node, axes, chosen, dim, arguments["index"])
    if isinstance(arguments.get("src"), fx.Node):
        _alike(state, node, chosen, state.axes(arguments["src"]), dim)
    # what is scattered into zeros is zero where nothing was chosen
    zeros = operator_of(arguments["self"]) in ("zeros", "zeros_like", "new_zeros")
    return [*axes[:dim], state.vanish(axes[dim]), *axes[dim + 1 :]] if zeros else axes


def write_rows(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Write whole rows at positions of one axis: index_add, index_copy, index_reduce."""
    axes, source = state.axes(arguments["self"]), state.axes(arguments["source"])
    dim = axis_index(arguments["dim"], len(axes))
    if len(source) != len(axes):
        raise NoRule
    read_by_number(state, node, axes[dim], arguments["index"])
    _alike(state, node, axes, source, dim)
    return axes


def put(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Write values where tensors index: `x[i] = values`, `x[mask] = 0`."""
    axes, indices = state.axes(arguments["self"]), arguments["indices"]
    masks = [t for t in indices if t is not None and t.meta["val"].dtype in (torch.bool, torch.uint8)]
    if not masks:
        for axis, tensor in zip(axes, indices, strict=False):
            if tensor is not None:
                state.pin(node, axis, "is written by number along this axis")
        picked = index(state, node, arguments)
        shape = tuple(len(axis) for axis in picked)
        broadcast(state, node, [picked, state.axes(arguments["values"])], shape)
        return axes
    if len(indices) > 1 or arguments["values"].meta["val"].numel() > 1:
        raise NoRule
    for mine, masked in zip(axes, state.axes(masks[0]), strict=False):
        state.union(mine, masked)
    return [axis.copy() if state.vanishes(axis) else axis for axis in axes]


def _by_number(state: Couplings, node: fx.Node, axes: Axes, chosen: Axes, dim: int, numbers: fx.Node) -> None:
    """State that an axis is read by numbers that have an axis of their own there, and the other axes in common."""
    read_by_number(state, node, axes[dim], numbers)
    state.pin(node, chosen[dim], "reads another axis by number along this one")
    for position, (mine, other) in enumerate(zip(axes, chosen, strict=True)):
        if position != dim and len(mine) == len(other):
            state.union(mine, other)
        elif position != dim:
            state.pin(node, mine, "reads only a part of this axis")


def _alike(state: Couplings, node: fx.Node, axes: Axes, source: Axes, dim: int) -> None:
    """State that what is written has the axes of where it goes, but for the one that is chosen by number."""
    for position, (mine, other) in enumerate(zip(axes, source, strict=True)):
        if position != dim and len(mine) == len(other):
            state.union(mine, other)
        else:
            state.pin(node, other, "is written by number along this axis")


def one_hot(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Give a new last axis that is 1 at the position that a number names."""
    axes, size = state.axes(arguments["self"]), shape_of(node)[-1]
    chosen = state.pointers.get(arguments["self"])
    known = chosen is not None and len(chosen) == size
    return [*axes, state.vanish(chosen) if known and chosen is not None else state.fixed(node, size)]


def constant_of(state: Couplings, node: Any) -> Axis | None:
    """Return the whole numbers that a buffer or constant of the model holds, None for what is computed."""
    while isinstance(node, fx.Node) and operator_of(node) in _COPIES:
        node = node.args[0]
    value = state.constants.get(node) if isinstance(node, fx.Node) else None
    if value is None or value.is_floating_point() or value.dtype == torch.bool:
        return None
    return np.asarray(value.detach().cpu().numpy(), np.int64)


_COPIES = ("lift_fresh_copy", "lift_fresh", "detach", "alias", "clone", "contiguous")


RULES: dict[str, Rule] = {
    "index": index,
    "index_select": index_select,
    "one_hot": one_hot,
    **dict.fromkeys(("gather", "take_along_dim"), gather),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("index_add", "index_copy", "index_reduce"), write_rows),
    "index_put": put,
}
