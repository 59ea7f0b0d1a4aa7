"""Operators with weights: one axis of the weight reads the channels, another makes new ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, shape_of
from paretune.prune._couplings.rules.joining import balance
from paretune.prune._couplings.units import Axis


def linear(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read the last axis, make a new one: weight is (out, in)."""
    axes, weight = state.axes(arguments["input"]), state.axes(arguments["weight"])
    if len(weight) != 2:
        raise NoRule
    state.union(axes[-1], weight[1])
    _bias(state, weight[0], arguments)
    state.make(node, arguments["weight"], 0)
    state.read(node, arguments["weight"], 1, axes[-1])
    state.cost(node, *axes[:-1], *weight)
    return [*axes[:-1], weight[0]]


def bilinear(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read the last axes of two inputs, make a new one: weight is (out, in 1, in 2)."""
    first, second = state.axes(arguments["input1"]), state.axes(arguments["input2"])
    weight = state.axes(arguments["weight"])
    for axis, read in ((1, first[-1]), (2, second[-1])):
        state.union(read, weight[axis])
        state.read(node, arguments["weight"], axis, read)
    for mine, other in zip(first[:-1], second[:-1], strict=True):
        state.union(mine, other)
    _bias(state, weight[0], arguments)
    state.make(node, arguments["weight"], 0)
    state.cost(node, *first[:-1], *weight)
    return [*first[:-1], weight[0]]


def convolution(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read the channels, make new ones: weight is (out, in / groups, *kernel), of any rank."""
    axes, weight = state.axes(arguments["input"]), state.axes(arguments["weight"])
    before, channels, space = _over_space(state, node, axes, weight, arguments)
    _bias(state, weight[0], arguments)
    reads = _read_in_groups(state, node, arguments, channels, weight)
    state.make(node, arguments["weight"], 0)
    state.cost(node, *before, weight[0], reads, *weight[2:], *space)
    return [*before, weight[0], *space]


def _read_in_groups(
    state: Couplings, node: fx.Node, arguments: dict[str, Any], channels: Axis, weight: Axes
) -> Axis:
    """Couple the channels with what reads them, and return the axis that one output channel reads."""
    groups, name = int(arguments["groups"]), arguments["weight"]
    if groups == 1:
        state.union(channels, weight[1])
        state.read(node, name, 1, channels)
        return weight[1]
    inner = len(channels) // groups
    if len(channels) % groups:
        raise NoRule
    if inner == 1:  # depthwise: each channel makes its own outputs and goes with them
        state.union(np.repeat(channels, len(weight[0]) // groups), weight[0])
        return weight[1]
    balance(state, node, channels, groups)
    balance(state, node, weight[0], groups)
    blocks = channels.reshape(groups, inner)
    if name in state.parameters and len(name.users) == 1:  # each group may lose other places than the next
        state.read(node, name, 1, blocks)
        return channels[:inner]
    for row in blocks:
        state.union(row, weight[1])
    return weight[1]


def transposed(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Read the channels, make new ones: weight is (in, out / groups, *kernel)."""
    axes, weight = state.axes(arguments["input"]), state.axes(arguments["weight"])
    groups = int(arguments["groups"])
    before, channels, space = _over_space(state, node, axes, weight, arguments)
    state.union(channels, weight[0])
    made = weight[1]
    if groups == 1:
        state.make(node, arguments["weight"], 1)
        state.read(node, arguments["weight"], 0, channels)
    elif groups == len(channels):
        state.pin(node, weight[1], "makes this many outputs of every channel")
        state.make(node, arguments["weight"], 0)
        made = np.repeat(weight[0], len(weight[1]))
    else:  # every group makes as many outputs as the next, at the same places of its own
        balance(state, node, channels, groups)
        state.make(node, arguments["weight"], 1)
        state.read(node, arguments["weight"], 0, channels)
        made = np.tile(weight[1], groups)
    if arguments.get("bias") is not None:
        state.union(made, state.axes(arguments["bias"])[0])
    state.cost(node, *axes, *weight[1:])
    return [*before, made, *space]


def _over_space(
    state: Couplings, node: fx.Node, axes: Axes, weight: Axes, arguments: dict[str, Any]
) -> tuple[Axes, Axis, Axes]:
    """Pin kernel and space; return the axes before the channels, the channels, and the space that comes out.

    Along an axis where the kernel has size 1 every position is by itself: it is no space to the convolution.
    """
    rank = len(weight) - 2
    split = len(axes) - rank - 1
    if split < 0 or rank < 1:
        raise NoRule
    strides, space = list(arguments["stride"]), []
    sizes = shape_of(node)[split + 1 :]
    for index, (axis, kernel, size) in enumerate(zip(axes[split + 1 :], weight[2:], sizes, strict=True)):
        if len(kernel) == 1 and strides[index % len(strides)] == 1 and size == len(axis):
            space.append(axis)
        else:
            state.pin(node, axis, "convolves over this axis as space")
            space.append(state.fixed(node, size))
        state.pin(node, kernel, "has this kernel size", "nothing: a kernel's extent is part of the function")
    return axes[:split], axes[split], space


def _bias(state: Couplings, made: Axis, arguments: dict[str, Any]) -> None:
    if arguments.get("bias") is not None:
        state.union(made, state.axes(arguments["bias"])[0])


def recurrent(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """LSTM, GRU and plain recurrent layers: every gate has the same hidden units, which the next step reads.

    One width for all layers and directions, as the modules have it. Weights are (gates * hidden, in) and
    (gates * hidden, hidden); with a projection (proj_size) the operator counts as unknown.
    """
    x, weights = state.axes(arguments["input"]), list(arguments["params"])
    if len(x) != 3 or arguments.get("batch_first") is None:
        raise NoRule
    if isinstance(arguments["hx"], list | tuple) and len({shape_of(s)[-1] for s in arguments["hx"]}) > 1:
        raise NoRule  # a projection: what the next step reads is not what the cell holds
    states = arguments["hx"] if isinstance(arguments["hx"], list | tuple) else [arguments["hx"]]
    per_cell = 4 if arguments["has_biases"] else 2
    cells = [weights[start : start + per_cell] for start in range(0, len(weights), per_cell)]
    hidden = state.axes(cells[0][1])[1]
    state.role("hidden", hidden)
    directions = 2 if arguments["bidirectional"] else 1
    inputs = x[2]
    for index, (w_in, w_hidden, *biases) in enumerate(cells):
        if index and index % directions == 0:
            inputs = np.tile(hidden, directions)
        read, again = state.axes(w_in)[1], state.axes(w_hidden)[1]
        state.union(inputs, read)
        state.union(hidden, again)
        for tensor in (w_in, w_hidden, *biases):
            for gate in state.axes(tensor)[0].reshape(-1, len(hidden)):
                state.union(gate, hidden)
        for weight, axis in ((w_in, inputs), (w_hidden, hidden)):
            state.make(node, weight, 0)
            state.read(node, weight, 1, axis)
            state.cost(node, *x[:2], *state.axes(weight))
    for initial in states:
        state.union(state.axes(initial)[2], hidden)
    final = [*state.axes(states[0])[:2], hidden]
    return [[*x[:2], np.tile(hidden, directions)], *(list(final) for _ in states)]


def embedding(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Look up rows: weight is (vocabulary, width)."""
    rows, width = state.axes(arguments["weight"])
    state.pin(node, rows, "looks up its rows by number", "nothing: the vocabulary is given")
    state.make(node, arguments["weight"], 1)
    state.role("embedding", width)
    return [*state.axes(arguments["indices"]), width]


RULES: dict[str, Rule] = {
    "linear": linear,
    "bilinear": bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
    "embedding": embedding,
}
