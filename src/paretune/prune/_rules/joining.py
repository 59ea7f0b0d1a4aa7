"""Operators that cut an axis or join axes: concatenation, slices, chunks, constant padding, repetition.

Bounds and amounts are numbers in the captured graph, whether they were written in the code or computed from a
shape: they are taken as written, so a removal that would shift what a slice reads is pinned. `chunk` is told how
many parts, not how long they are: it stays right as long as every part loses equally much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from paretune.prune._couplings import Axes, Couplings, NoRule, Rule, axis_index, shape_of
from paretune.prune._units import Axis

_WRITTEN = "torch.chunk, or bounds that the cut does not shift (from the end: x[:, -8:])"


def concatenate(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Join along one axis; the other axes are coupled."""
    parts = [state.axes(part) for part in arguments["tensors"]]
    parts = [part for part in parts if len(part) == len(shape_of(node))]  # torch.cat skips empty 1-d tensors
    dim = axis_index(arguments["dim"], len(shape_of(node)))
    out = list(parts[0])
    for part in parts[1:]:
        for index, axis in enumerate(part):
            if index != dim:
                state.union(out[index], axis)
    out[dim] = np.concatenate([part[dim] for part in parts])
    return out


def stack(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Join along a new axis; all others are coupled."""
    parts = [state.axes(part) for part in arguments["tensors"]]
    for part in parts[1:]:
        for mine, axis in zip(parts[0], part, strict=True):
            state.union(mine, axis)
    dim = axis_index(arguments["dim"], len(parts[0]) + 1)
    return [*parts[0][:dim], state.fixed(node, len(parts)), *parts[0][dim:]]


def take_slice(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Cut a range out of an axis, and pin whatever would shift it."""
    axes = list(state.axes(arguments["self"]))
    dim = axis_index(arguments["dim"], len(axes))
    start, end, step = arguments["start"], arguments["end"], arguments["step"]
    axis, size = axes[dim], len(axes[dim])
    low, high, _ = slice(start, end, step).indices(size)
    whole = low == 0 and high == size and step == 1
    if not whole:
        state.pin(
            node,
            _shifting(axis, start, end, low, high, step),
            "reads a range that this removal would shift",
            _WRITTEN,
        )
    axes[dim] = axis[low:high:step]
    return axes


def _shifting(axis: Axis, start: Any, end: Any, low: int, high: int, step: int) -> Axis:
    """Return the positions whose removal would change what is read, beyond their own absence."""
    if step != 1:
        return axis
    shifting = np.zeros(len(axis), bool)
    if start is not None and start < 0:
        shifting[low:] = True
    else:
        shifting[:low] = True
    if end is not None and end < 0:
        shifting[high:] = True
    elif high < len(axis):
        shifting[:high] = True
    return axis[shifting]


def select(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read one position of an axis."""
    axes = list(state.axes(arguments["self"]))
    dim, index = axis_index(arguments["dim"], len(axes)), arguments["index"]
    axis = axes.pop(dim)
    read = axis[: index + 1] if index >= 0 else axis[index:]
    state.pin(node, read, "reads one position that this removal would shift", _WRITTEN)
    return axes


def unbind(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Give every position of an axis as a tensor of its own."""
    axes = list(state.axes(arguments["self"]))
    axis = axes.pop(axis_index(arguments["dim"], len(axes)))
    state.pin(node, axis, "gives every position of this axis a name of its own")
    return [axes for _ in axis]


def chunk(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Cut an axis into equal parts: every part must lose equally many."""
    axes = state.axes(arguments["self"])
    dim = axis_index(arguments.get("dim", 0), len(axes))
    sizes = [int(part.shape[dim]) for part in node.meta["val"]]
    if len(set(sizes)) > 1:
        state.pin(node, axes[dim], "cuts this axis into unequal parts", "a width that the number of parts divides")
    elif len(sizes) > 1 and (axes[dim] >= 0).any():
        balance(state, node, axes[dim], len(sizes))
    return _parts(axes, dim, sizes)


def balance(state: Couplings, node: fx.Node, axis: Axis, blocks: int) -> None:
    """State that every block of an axis must lose equally many positions."""
    if (axis < 0).any():
        state.pin(node, axis, "needs equal parts, and some positions here are fixed")
    elif (axis >= 0).any():
        state.balances.append(axis.reshape(blocks, -1))


def split(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Cut an axis into parts whose sizes are written in the code."""
    axes = state.axes(arguments["self"])
    dim = axis_index(arguments.get("dim", 0), len(axes))
    sizes = [int(part.shape[dim]) for part in node.meta["val"]]
    if len(sizes) > 1:
        state.pin(node, axes[dim], f"cuts this axis into parts of {', '.join(map(str, sizes))}", _WRITTEN)
    return _parts(axes, dim, sizes)


def _parts(axes: Axes, dim: int, sizes: list[int]) -> list[Axes]:
    ends = np.cumsum(sizes)
    return [
        [*axes[:dim], axes[dim][end - size : end], *axes[dim + 1 :]] for size, end in zip(sizes, ends, strict=True)
    ]


def pad(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Add a fixed number of positions before and after an axis (constant), or mirror it (space only)."""
    axes = list(state.axes(arguments["self"]))
    amounts = list(arguments["pad"])
    constant = arguments.get("mode", "constant") == "constant"
    for offset in range(len(amounts) // 2):
        before, after = amounts[2 * offset : 2 * offset + 2]
        dim = len(axes) - 1 - offset
        if before == after == 0:
            continue
        if not constant or before < 0 or after < 0:
            state.pin(node, axes[dim], "mirrors or crops this axis")
            axes[dim] = state.fixed(node, shape_of(node)[dim])
            continue
        remedy = "nothing: the padding's width is written in the code"
        what = "pads with a fixed number of zeros here"
        fixed = state.fixed(node, 1, what, remedy)
        axes[dim] = np.concatenate([np.repeat(fixed, before), axes[dim], np.repeat(fixed, after)])
    return axes


def repeat(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Tile axes a fixed number of times."""
    axes, times = state.axes(arguments["self"]), [int(count) for count in arguments["repeats"]]
    new = len(times) - len(axes)
    return [state.fixed(node, count) for count in times[:new]] + [
        np.tile(axis, count) for axis, count in zip(axes, times[new:], strict=True)
    ]


def repeat_interleave(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Repeat every position of an axis a fixed number of times."""
    axes = list(state.axes(arguments["self"]))
    if arguments.get("dim") is None or not isinstance(arguments["repeats"], int):
        raise NoRule
    dim = axis_index(arguments["dim"], len(axes))
    axes[dim] = np.repeat(axes[dim], arguments["repeats"])
    return axes


def flip(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Reverse axes."""
    axes = list(state.axes(arguments["self"]))
    for dim in arguments["dims"]:
        axes[dim] = axes[dim][::-1]
    return axes


def roll(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Shift axes by an amount that is written in the code."""
    axes = state.axes(arguments["self"])
    for dim in arguments["dims"] or range(len(axes)):
        state.pin(node, axes[dim], "shifts this axis by a fixed amount")
    return axes


RULES: dict[str, Rule] = {
    "cat": concatenate,
    "concat": concatenate,
    "stack": stack,
    "slice": take_slice,
    "select": select,
    "unbind": unbind,
    "chunk": chunk,
    "split": split,
    "split_with_sizes": split,
    "tensor_split": split,
    "pad": pad,
    "constant_pad_nd": pad,
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "flip": flip,
    "roll": roll,
}
