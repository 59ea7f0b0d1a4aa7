"""Operators that cut an axis or join axes: concatenation, slices, chunks, constant padding, repetition.

Bounds and amounts are numbers in the captured graph; after a cut they are counted anew, so that every operator
reads what it read before. Whether the user's own code does the same shows when it is run. `chunk` is told how many
parts, not how long they are: the code follows where every part loses equally much, which is preferred.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, axis_index, shape_of
from paretune.prune._couplings.units import Axis


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
    joined = state.open(len(parts))
    state.role("experts", joined)
    return [*parts[0][:dim], joined, *parts[0][dim:]]


def take_slice(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Cut a range out of an axis."""
    axes = list(state.axes(arguments["self"]))
    dim = axis_index(arguments["dim"], len(axes))
    axes[dim] = axes[dim][slice(arguments["start"], arguments["end"], arguments["step"])]
    return axes


def slice_scatter(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Write a tensor into a range of an axis, by bounds in the code; the other axes are coupled."""
    axes, source = state.axes(arguments["self"]), state.axes(arguments["src"])
    dim = axis_index(arguments["dim"], len(axes))
    end, step = arguments["end"], arguments["step"]
    whole = not arguments["start"] and step == 1 and (end is None or end >= len(axes[dim]))
    for index, (mine, other) in enumerate(zip(axes, source, strict=True)):
        if index != dim or whole:
            state.union(mine, other)
        else:
            state.pin(node, mine, "writes a range of this axis")
            state.pin(node, other, "is written to a range of an axis along this one")
    return [axis.copy() if state.vanishes(axis) else axis for axis in axes]


def select(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read one position of an axis, which must stay."""
    axes = list(state.axes(arguments["self"]))
    dim, index = axis_index(arguments["dim"], len(axes)), arguments["index"]
    axis = axes.pop(dim)
    state.pin(node, axis[[index]], "reads this position by its number")
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
    if len(set(sizes)) == 1 and len(sizes) > 1 and (axes[dim] >= 0).all():
        state.preferences.append(axes[dim].reshape(len(sizes), -1))
    return _parts(axes, dim, sizes)


def balance(state: Couplings, node: fx.Node, axis: Axis, blocks: int) -> None:
    """State that every block of an axis must lose equally many positions."""
    if (axis < 0).any():
        state.pin(node, axis, "needs equal parts, and some positions here are fixed")
    elif (axis >= 0).any():
        state.balances.append(axis.reshape(blocks, -1))


def split(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Cut an axis into parts of given sizes."""
    axes = state.axes(arguments["self"])
    dim = axis_index(arguments.get("dim", 0), len(axes))
    return _parts(axes, dim, [int(part.shape[dim]) for part in node.meta["val"]])


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
        if (axes[dim] < 0).all():
            axes[dim] = state.fixed(node, shape_of(node)[dim])
        else:
            axes[dim] = np.concatenate([state.open(before), axes[dim], state.open(after)])
    return axes


def repeat(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Tile axes a number of times; an axis of size 1 is stretched."""
    axes, times = state.axes(arguments["self"]), [int(count) for count in arguments["repeats"]]
    new = len(times) - len(axes)
    return [state.open(count) for count in times[:new]] + [
        _tiled(state, axis, np.tile(axis, count)) for axis, count in zip(axes, times[new:], strict=True)
    ]


def _tiled(state: Couplings, axis: Axis, tiled: Axis) -> Axis:
    return state.open(len(tiled)) if len(axis) == 1 and len(tiled) > 1 else tiled


def repeat_interleave(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Repeat every position of an axis a number of times."""
    axes = list(state.axes(arguments["self"]))
    if arguments.get("dim") is None or not isinstance(arguments["repeats"], int):
        raise NoRule
    dim = axis_index(arguments["dim"], len(axes))
    axes[dim] = _tiled(state, axes[dim], np.repeat(axes[dim], arguments["repeats"]))
    return axes


def flip(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Reverse axes."""
    axes = list(state.axes(arguments["self"]))
    for dim in arguments["dims"]:
        axes[dim] = axes[dim][::-1]
    return axes


def tile(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Tile as `repeat` does, with the axes counted from the last."""
    dims = list(arguments["dims"])
    missing = len(state.axes(arguments["self"])) - len(dims)
    return repeat(state, node, {"self": arguments["self"], "repeats": [1] * max(0, missing) + dims})


def shuffle(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Deal the channels out from equal groups in turn."""
    axes = list(state.axes(arguments["self"]))
    axes[1] = axes[1].reshape(int(arguments["groups"]), -1).T.ravel()
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
    "slice_scatter": slice_scatter,
    "select": select,
    "unbind": unbind,
    **dict.fromkeys(("chunk", "unsafe_chunk"), chunk),
    **dict.fromkeys(("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"), split),
    "tensor_split": split,
    "pad": pad,
    "constant_pad_nd": pad,
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "tile": tile,
    "flip": flip,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), shuffle),
    "roll": roll,
}
