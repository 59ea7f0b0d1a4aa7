"""Normalisation: the channels pass, and the parameters along them are coupled.

Batch and instance norm treat every channel by itself. Layer, group and RMS norm take statistics over the channels:
after a cut they take them over the channels that stay, which is what is recorded.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, Rule
from paretune.prune._couplings.rules.joining import balance
from paretune.prune._couplings.units import Axis


def batch_norm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple the channels with weight, bias and running statistics."""
    axes = state.axes(arguments["input"])
    _couple(state, axes[1], arguments, ("weight", "bias", "running_mean", "running_var"))
    return axes


def instance_norm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Do as batch norm does; its statistics are those of the whole space of a sample."""
    axes = batch_norm(state, node, arguments)
    for axis in axes[2:]:
        state.pin(node, axis, "takes statistics over this axis as space")
    return axes


def group_norm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple the channels with the parameters; every group of channels must stay as large as the others.

    With one channel for each group, channels go with their groups, and each has statistics of its own.
    """
    axes = state.axes(arguments["input"])
    alone = arguments["num_groups"] == len(axes[1])
    if arguments["num_groups"] > 1 and not alone:
        balance(state, node, axes[1], int(arguments["num_groups"]))
    for index, axis in list(enumerate(axes))[2 if alone else 1 :]:
        state.mask(node, arguments["input"], index, axis, statistic=True)
    _couple(state, axes[1], arguments, ("weight", "bias"))
    return axes


def layer_norm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple the last axes with the parameters, where there are any."""
    axes = state.axes(arguments["input"])
    count = len(arguments["normalized_shape"])
    for offset, axis in enumerate(axes[-count:]):
        state.mask(node, arguments["input"], len(axes) - count + offset, axis, statistic=True)
        state.role("normalised", axis)
        for name in ("weight", "bias"):
            if arguments.get(name) is not None:
                state.union(axis, state.axes(arguments[name])[offset])
    return axes


def _couple(state: Couplings, channels: Axis, arguments: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if arguments.get(name) is not None:
            state.union(channels, state.axes(arguments[name])[0])


RULES: dict[str, Rule] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
}
