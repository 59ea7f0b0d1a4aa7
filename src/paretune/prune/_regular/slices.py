"""The weights of every channel: the slices of all parameters that make it, scale it, or read it.

Channels that must be cut together are one unit, so that a penalty on its weights lets all of them go at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from paretune.prune._analysis import Analysis
from paretune.prune._learned.places import Places, reads_of


@dataclass(frozen=True)
class Side:
    """One axis of one parameter that holds units."""

    name: str
    axis: int
    blocks: int
    """Equal parts of axis 0 that hold units of their own along the axis (grouped convolution); else 1."""
    units: Tensor
    """(blocks * length, factors) int64: the units at every position; one past the last where there is none."""


class Slices:
    """The parameters of an analysed model by unit."""

    def __init__(self, analysis: Analysis, places: Places) -> None:
        self.model, self.count = analysis.model, places.count
        self.sides = _sides(analysis, places)
        self.sizes = self._sums(lambda name: torch.ones_like(self._weight(name)))
        """(units,): how many weights each unit has."""

    def _weight(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    def squares(self) -> Tensor:
        """Return (units,): the sum of the squares of every unit's weights, with a gradient."""
        squared = {name: self._weight(name).float().square() for name in {side.name for side in self.sides}}
        return self._sums(squared.__getitem__)

    def _sums(self, of: object) -> Tensor:
        device = self._weight(self.sides[0].name).device
        total = torch.zeros(self.count + 1, device=device)
        for side in self.sides:
            value: Tensor = of(side.name)  # type: ignore[operator]
            split = value.reshape(side.blocks, -1, *value.shape[1:])
            others = [axis for axis in range(split.dim()) if axis not in (0, side.axis + 1)]
            summed = (split.sum(others) if others else split).flatten()
            units = side.units.to(device)
            for column in range(units.shape[1]):
                total = total.index_add(0, units[:, column], summed)
        return total[:-1]

    def masks(self, chosen: Tensor) -> dict[str, Tensor]:
        """Return, for the parameters with weights of chosen units, which entries these are; chosen: (units,)
        bool."""
        chosen = torch.cat([chosen, chosen.new_zeros(1)])
        found: dict[str, Tensor] = {}
        for side in self.sides:
            shape = self._weight(side.name).shape
            here = chosen[side.units].any(1).reshape(side.blocks, -1)
            view = [1] * (len(shape) + 1)
            view[0], view[side.axis + 1] = here.shape
            split = torch.Size([side.blocks, shape[0] // side.blocks, *shape[1:]])
            mask = here.reshape(view).expand(split).reshape(shape)
            if mask.any():
                found[side.name] = found[side.name] | mask if side.name in found else mask
        return found


def _sides(analysis: Analysis, places: Places) -> list[Side]:
    """Return every axis of a parameter that holds units, each once however often the parameter is used."""
    parameters = dict(analysis.model.named_parameters(remove_duplicate=False))
    found: dict[tuple[str, int], Side] = {}
    for read in reads_of(analysis, places):
        if read.tensor in parameters:
            blocks, _, factors = read.gates.shape
            units = torch.from_numpy(read.gates.reshape(-1, factors))
            found[read.tensor, read.axis] = Side(read.tensor, read.axis, blocks, units)
    for name, axes in analysis.couplings.tensors.items():
        for index, axis in enumerate(axes) if name in parameters else ():
            at = places.on(analysis.couplings.units, np.asarray(axis))
            if (name, index) not in found and (at < places.count).any():
                found[name, index] = Side(name, index, 1, torch.from_numpy(at))
    return list(found.values())
