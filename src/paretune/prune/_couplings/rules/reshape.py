"""Operators that re-arrange axes: views, flattening, permutation, adding and dropping axes of size 1."""

from __future__ import annotations

from functools import reduce
from typing import Any

from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, all_fixed, axis_index, shape_of
from paretune.prune._couplings.units import Axis

_REMEDY = "a reshape that keeps blocks of equal content together"


def view(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Match runs of axes with equal products, and merge and split inside each run."""
    axes, shape = state.axes(next(iter(arguments.values()))), shape_of(node)
    out: dict[int, Axis] = {}
    for sources, targets in runs([len(axis) for axis in axes], list(shape)):
        if not targets:
            for source in sources:
                state.pin(node, axes[source], "drops an axis of size 1")
        elif len(sources) == len(targets) == 1:
            out[targets[0]] = axes[sources[0]]
        elif all_fixed([axes[source] for source in sources]):
            out |= {target: state.fixed(node, shape[target]) for target in targets}
        else:
            merged = reduce(state.units.merge, [axes[source] for source in sources])
            parts = _split(state, node, merged, [shape[t] for t in targets])
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


def _split(state: Couplings, node: fx.Node, axis: Axis, sizes: list[int]) -> list[Axis]:
    """Split one axis into several, outermost first."""
    parts: list[Axis] = []
    for size in sizes[:-1]:
        why = state.why(node, "splits this axis", _REMEDY)
        outer, axis, _ = state.units.split(axis, size, len(axis) // size, why)
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
    """Drop axes of size 1."""
    axes = state.axes(arguments["self"])
    dims = arguments.get("dim")
    asked = range(len(axes)) if dims is None else (dims if isinstance(dims, list | tuple) else [dims])
    dropped = {axis_index(dim, len(axes)) for dim in asked if len(axes[dim]) == 1}
    return [axis for dim, axis in enumerate(axes) if dim not in dropped]


def expand(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Stretch axes of size 1, to whatever size is needed; the others stay."""
    axes, shape = state.axes(arguments["self"]), shape_of(node)
    new = len(shape) - len(axes)
    out: Axes = []
    for position, size in enumerate(shape):
        axis = axes[position - new] if position >= new else None
        if axis is not None and len(axis) == size:
            out.append(axis)
        else:
            if axis is not None:
                state.pin(node, axis, "stretches an axis of size 1")
            out.append(state.open(size) if size > 1 else state.fixed(node, size))
    return out


def expand_as(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Stretch axes of size 1 to another tensor's; all others are coupled to it."""
    axes, other = state.axes(arguments["self"]), state.axes(arguments["other"])
    out = list(other)
    for position, axis in enumerate(axes, len(other) - len(axes)):
        if len(axis) == len(other[position]):
            state.union(axis, other[position])
            out[position] = axis
        else:
            state.pin(node, axis, "stretches an axis of size 1")
    return out


def unfold(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Slide a window over an axis: the axis is cut into windows, and a new last axis runs over each."""
    axes, shape = list(state.axes(arguments["self"])), shape_of(node)
    dim = axis_index(arguments["dimension"], len(axes))
    state.pin(node, axes[dim], "slides a window over this axis")
    axes[dim] = state.fixed(node, shape[dim])
    return [*axes, state.fixed(node, shape[-1])]


def im2col(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Gather the windows of every channel: (N, C, H, W) -> (N, C * window, positions)."""
    *before, channels, height, width = state.axes(arguments["self"])
    for axis in (height, width):
        state.pin(node, axis, "slides a window over this axis")
    *_, merged, positions = shape_of(node)
    window = state.fixed(node, merged // len(channels))
    return [*before, state.units.merge(channels, window), state.fixed(node, positions)]


def col2im(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Add the windows of every channel up: (N, C * window, positions) -> (N, C, H, W)."""
    *before, merged, positions = state.axes(arguments["self"])
    state.pin(node, positions, "adds up windows along this axis")
    size = shape_of(node)[-3]
    why = state.why(node, "adds up windows of every channel")
    channels, window, _ = state.units.split(merged, size, len(merged) // size, why)
    state.pin(node, window, "adds up the window of every channel")
    return [*before, channels, *(state.fixed(node, extent) for extent in shape_of(node)[-2:])]


def as_strided(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read memory at strides that are written in the code: that of whatever the tensor is a view of."""
    base = arguments["self"]
    while True:
        for axis in state.axes(base):
            state.pin(node, axis, "reads memory by strides, which are those of this size")
        schema = getattr(base.target, "_schema", None)
        if schema is None or not schema.arguments or schema.arguments[0].alias_info is None:
            break
        base = base.args[0]
    return [state.fixed(node, size) for size in shape_of(node)]


def as_complex(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Take the last axis, of size 2, for real and imaginary part."""
    axes = state.axes(arguments["self"])
    state.pin(node, axes[-1], "takes this axis for real and imaginary part")
    return axes[:-1]


def as_real(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Give real and imaginary part an axis of their own."""
    return [*state.axes(arguments["self"]), state.fixed(node, 2)]


def movedim(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Move axes to other places; the rest keep their order."""
    axes = state.axes(arguments["self"])
    source, target = (
        [axis_index(d, len(axes)) for d in (dims if isinstance(dims, list | tuple) else [dims])]
        for dims in (arguments["source"], arguments["destination"])
    )
    out = {to: axes[at] for at, to in zip(source, target, strict=True)}
    rest = iter(axis for index, axis in enumerate(axes) if index not in source)
    return [out[index] if index in out else next(rest) for index in range(len(axes))]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "ravel", "view_as", "reshape_as"), view
    ),
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "matrix_H", "adjoint"), transpose),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    **dict.fromkeys(("expand", "broadcast_to"), expand),
    "expand_as": expand_as,
    "unfold": unfold,
    "im2col": im2col,
    "col2im": col2im,
    "as_strided": as_strided,
    "view_as_complex": as_complex,
    "view_as_real": as_real,
    **dict.fromkeys(("movedim", "moveaxis"), movedim),
}
