"""Operators that re-arrange axes: views, flattening, permutation, adding and dropping axes of size 1."""

from __future__ import annotations

from functools import reduce
from typing import Any

from torch import fx

from paretune.prune._couplings import Axes, Couplings, NoRule, Rule, all_fixed, axis_index, shape_of
from paretune.prune._units import Axis

_REMEDY = "the size taken from the tensor (x.shape[1]) or left open (-1), and the number of blocks in an attribute"


def view(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Match runs of axes with equal products, and merge and split inside each run."""
    axes, shape = state.axes(next(iter(arguments.values()))), shape_of(node)
    asked = arguments.get("size", arguments.get("shape"))
    open_axis = list(asked).index(-1) if asked is not None and -1 in list(asked) else None
    out: dict[int, Axis] = {}
    for sources, targets in runs([len(axis) for axis in axes], list(shape)):
        if not targets:
            for source in sources:
                state.pin(node, axes[source], "drops an axis of size 1")
            continue
        if len(sources) == len(targets) == 1:
            out[targets[0]] = axes[sources[0]]
            continue
        if all_fixed([axes[source] for source in sources]):
            out |= {target: state.fixed(node, shape[target]) for target in targets}
            continue
        merged = reduce(state.units.merge, [axes[source] for source in sources])
        parts = _split(
            state,
            node,
            merged,
            [shape[t] for t in targets],
            open_axis - targets[0] if open_axis is not None else -1,
        )
        out |= dict(zip(targets, parts, strict=True))
    return [out[index] for index in range(len(shape))]


def runs(before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of axes that hold equally many positions in both shapes.

    >>> runs([2, 8, 4, 4], [2, 128])
    [([0], [0]), ([1, 2, 3], [1])]
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        one_before, one_after = i < len(before) and before[i] == 1, j < len(after) and after[j] == 1
        if one_before and not one_after:
            found.append(([i], []))
            i += 1
            continue
        if one_after and not one_before:
            found.append(([], [j]))
            j += 1
            continue
        if i >= len(before) or j >= len(after):
            raise NoRule
        start, first, left, right = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                right, j = right * after[j], j + 1
            else:
                raise NoRule
        found.append((list(range(start, i)), list(range(first, j))))
    return found


def _split(state: Couplings, node: fx.Node, axis: Axis, sizes: list[int], open_axis: int) -> list[Axis]:
    """Split one axis into several, outermost first."""
    parts: list[Axis] = []
    for position, size in enumerate(sizes[:-1]):
        why = state.why(node, "splits this axis", _REMEDY)
        outer, axis, fresh = state.units.split(axis, size, len(axis) // size, why)
        if fresh and position != open_axis:
            # the count of blocks (groups, heads) is a number in the code as a rule; the width inside one seldom is
            state.pin(node, outer, f"splits this axis into {size} blocks, a number written in the code", _REMEDY)
        parts.append(outer)
    return [*parts, axis]


def permute(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Put the axes in another order."""
    axes = state.axes(arguments["self"])
    return [axes[dim] for dim in arguments["dims"]]


def transpose(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Swap two axes (the last two, for `t` and `.T` of a matrix)."""
    axes = list(state.axes(arguments["self"]))
    if len(axes) < 2:
        return axes
    first = arguments.get("dim0", arguments.get("axis0", -2))
    second = arguments.get("dim1", arguments.get("axis1", -1))
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def unsqueeze(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Add an axis of size 1."""
    axes = list(state.axes(arguments["self"]))
    axes.insert(axis_index(arguments["dim"], len(axes) + 1), state.fixed(node, 1))
    return axes


def squeeze(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Drop axes of size 1; a channel axis that a cut could bring down to 1 would vanish too: it is pinned."""
    axes = state.axes(arguments["self"])
    dims = arguments.get("dim")
    if dims is None:
        for axis in axes:
            state.pin(node, axis, "drops every axis of size 1, which this one could become", "squeeze(dim)")
        return [axis for axis in axes if len(axis) != 1]
    dropped = {axis_index(dim, len(axes)) for dim in (dims if isinstance(dims, list | tuple) else [dims])}
    for dim in dropped:
        state.pin(node, axes[dim], "drops this axis where its size is 1", "squeeze(dim) of another axis")
    return [axis for dim, axis in enumerate(axes) if dim not in dropped or len(axis) != 1]


def expand(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Stretch axes of size 1; the others stay."""
    axes, shape = state.axes(arguments["self"]), shape_of(node)
    new = len(shape) - len(axes)
    out: Axes = []
    for position, size in enumerate(shape):
        axis = axes[position - new] if position >= new else None
        if axis is not None and len(axis) == size:
            out.append(axis)
            continue
        if axis is not None:
            state.pin(node, axis, "stretches an axis of size 1")
        out.append(state.fixed(node, size))
    return out


def expand_as(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Stretch axes of size 1 to another tensor's: the stretched follow it, the others are coupled to it."""
    axes, other = state.axes(arguments["self"]), state.axes(arguments["other"])
    out = list(other)
    for position, axis in enumerate(axes, len(other) - len(axes)):
        if len(axis) == len(other[position]):
            state.union(axis, other[position])
            out[position] = axis
        else:
            state.pin(node, axis, "stretches an axis of size 1")
    return out


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "ravel", "view_as"), view),
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "matrix_H", "adjoint"), transpose),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    **dict.fromkeys(("expand", "broadcast_to"), expand),
    "expand_as": expand_as,
}
