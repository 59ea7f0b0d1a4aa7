"""Parts: where the units of a group lie on one axis of one parameter, and how a score is shown them.

The first axis of what a score is given is the unit, whatever the unit is: the rows of a weight that make one
channel, the columns that read it, or all the rows of one attention head. Here those positions are found, and
tensors are arranged so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from paretune.graphs import placed
from paretune.prune._couplings.couplings import Couplings, Slice, arguments
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.operators import operator_of

NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")


@dataclass(frozen=True, eq=False)
class Part:
    """The units of one group that lie on one axis of one parameter."""

    slice: Slice
    group: int
    """Index of the group."""
    units: NDArray[np.int64]
    """(n,) places in the group's flattened blocks."""
    positions: Tensor
    """(n, r) int64: the r positions of each unit on the axis (in its block): one of a channel, many of a head."""
    block: int = 0
    blocks: int = 1
    """Which of the blocks of axis 0 of the parameter this is about (grouped convolution)."""


def parts_of(state: Couplings, groups: Sequence[Group], slices: Sequence[Slice]) -> list[Part]:
    """Return every part of the groups on these slices, in the order of the slices."""
    owner = np.full(state.units.count + 1, -1)  # the last entry stands for positions that nothing removes
    place = np.zeros(state.units.count + 1, np.int64)
    for index, group in enumerate(groups):
        flat = group.blocks.ravel()
        owner[flat], place[flat] = index, np.arange(len(flat))
    parts = []
    for where in slices:
        rows = np.atleast_2d(where.units)
        for block, row in enumerate(rows):
            for column in state.units.factors(row).T:
                owners = owner[column]
                for group_index in np.unique(owners[owners >= 0]).tolist():
                    at = np.flatnonzero(owners == group_index)
                    units, positions = _together(place[column[at]], at)
                    parts.append(Part(where, group_index, units, positions, block, len(rows)))
    return parts


def _together(units: NDArray[np.int64], positions: NDArray[np.intp]) -> tuple[NDArray[np.int64], Tensor]:
    """Return (units, positions of each); with unlike numbers of positions, each position stands alone."""
    found, counts = np.unique(units, return_counts=True)
    if (counts != counts[0]).any():
        return units, torch.from_numpy(positions[:, None])
    order = np.argsort(units, kind="stable")
    return found, torch.from_numpy(positions[order].reshape(len(found), -1))


def makers(groups: Sequence[Group]) -> list[Slice]:
    """Return the slices that make the groups' channels, those of the first group first."""
    return list({id(made): made for group in groups for made in group.makes}.values())


def norms(state: Couplings) -> list[Slice]:
    """Return the scales of the norms, as slices along the channels."""
    found: dict[str, Slice] = {}
    for node in state.values:
        weight = arguments(node).get("weight") if operator_of(node) in NORMS else None
        name = state.parameters.get(weight) if isinstance(weight, fx.Node) else None
        if name is not None and len(state.tensors[name]) == 1:
            found.setdefault(name, Slice(name, 0, state.tensors[name][0], node))
    return list(found.values())


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by its dotted name."""
    owner, _, leaf = (placed(name) if isinstance(model, fx.GraphModule) else name).rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), leaf)
    return tensor


def arranged(part: Part, tensor: Tensor, *, matrix: bool = False) -> Tensor:
    """Return a tensor like the part's parameter with the units first: (n, other, [r,] *kernel).

    r, the positions of each unit, is left out where it is 1. matrix: all other axes are made one.
    """
    if part.blocks > 1:
        tensor = tensor.chunk(part.blocks)[part.block]
    tensor = tensor.movedim(part.slice.axis, 0)
    if matrix:
        tensor = tensor.flatten(1)
    out = tensor[part.positions.to(tensor.device)]
    return out if out.dim() == 2 else out.transpose(1, 2).squeeze(2)


def arranged_samples(part: Part, values: Tensor) -> Tensor:
    """Return (samples, n, [r,] *positions) of values (samples, length of the axis, *positions)."""
    if part.blocks > 1:
        values = values.chunk(part.blocks, dim=1)[part.block]
    return values[:, part.positions.to(values.device)].squeeze(2)


def arranged_rows(part: Part, values: Tensor) -> Tensor:
    """Return (n, 1, [r,] *kernel) of values (length of the axis, *kernel), to go with a weight."""
    return values[part.positions.to(values.device)][:, None].squeeze(2)


def arranged_moment(part: Part, moment: Tensor) -> Tensor:
    """Return (n * r * k, n * r * k), the unit outermost, of a second moment (length * k, length * k)."""
    length = part.slice.units.shape[-1]
    within = len(moment) // length
    flat = part.positions.ravel().to(moment.device)
    rows = moment.reshape(length, within, -1)[flat].reshape(len(flat) * within, length, within)
    return rows[:, flat].reshape(len(flat) * within, -1)
