"""The expected cost of a gated model: what is counted of it if every channel stays with the chance that its gate
says.

The cost of a layer is the product of the lengths of its axes (`Analysis.counted`), so the expected one is that of
the expected lengths, the chances of a layer's axes taken as independent. At gates of 0 and 1 it is the exact cost
of the cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from paretune.prune._couplings.units import Axis, Units
from paretune.prune._learned.places import Places


class Expected(nn.Module):
    """Gates (n,) -> expected cost, a scalar, differentiable: the sum of products of lengths, in a handful of
    operators."""

    table: Tensor
    """(positions, factors): the gates of every position of an axis that has any; n stands for a gate of 1."""
    times: Tensor
    """(positions,): how often a position with these gates lies on its axis."""
    axis: Tensor
    """(positions,): its axis."""
    lengths: Tensor
    """(axes,): positions of each axis that no gate closes."""
    products: Tensor
    """(products, factors): the axes whose lengths are multiplied; one past the last stands for 1."""
    scales: Tensor

    def __init__(
        self, places: Places, units: Units, counted: Sequence[tuple[tuple[Axis, ...], float]], fixed: float = 0.0
    ) -> None:
        super().__init__()
        axes = {id(axis): axis for several, _ in counted for axis in several}
        number = {key: index for index, key in enumerate(axes)}
        rows, times, owners, lengths = [], [], [], []
        for index, axis in enumerate(axes.values()):
            found, count = np.unique(places.on(units, axis), axis=0, return_counts=True)
            closes = (found < places.count).any(axis=1)
            lengths.append(count[~closes].sum())
            rows += list(found[closes])
            times.append(count[closes])
            owners.append(np.full(int(closes.sum()), index))
        products = [[number[id(axis)] for axis in several] for several, _ in counted]
        self._hold("table", _padded(rows, places.count))
        self._hold("times", np.concatenate([*times, np.empty(0)]).astype(np.float32))
        self._hold("axis", np.concatenate([*owners, np.empty(0)]).astype(np.int64))
        self._hold("lengths", np.array(lengths, np.float32))
        self._hold("products", _padded(products, len(axes)))
        self._hold("scales", np.array([scale for _, scale in counted], np.float32))
        self.fixed = float(fixed)

    def _hold(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, gates: Tensor) -> Tensor:
        """Return the expected cost."""
        one = gates.new_ones(1)
        open_ = torch.cat([gates, one])[self.table].prod(1)
        lengths = self.lengths.index_add(0, self.axis, self.times * open_)
        return self.fixed + (self.scales * torch.cat([lengths, one])[self.products].prod(1)).sum()


def _padded(rows: Sequence[Sequence[int] | np.ndarray], filling: int) -> np.ndarray:
    """Return (rows, longest) int64, shorter rows filled up."""
    width = max((len(row) for row in rows), default=1)
    out = np.full((len(rows), max(1, width)), filling, np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out
