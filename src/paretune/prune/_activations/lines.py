"""The least-squares line of an activation: a * x + b, for each channel, nearest to what it gives on data.

a = cov(x, y) / var(x) and b = mean(y) - a * mean(x), over all values of a channel. A channel whose input never
changes gets its mean output, a = 0. A line that must be zero at a given x has one number less to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.prune._float64 import in_float64


@dataclass
class Sums:
    """Sums over the values of each channel, in float64."""

    trailing: int
    """Axes after that of the channels."""
    single: bool = False
    """One line for all channels."""
    count: int = 0
    totals: Tensor | None = None
    """(4, channels): of x, y, x * x and x * y, x and y from the first batch's mean."""
    origin: Tensor | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in one batch of what an activation reads and gives."""
        x, y = (self._rows(value) for value in (x, y))
        if self.origin is None:  # away from a large mean the squares would cancel
            self.origin = torch.stack([x.mean(1), y.mean(1)])
        x, y = x - self.origin[0][:, None], y - self.origin[1][:, None]
        sums = torch.stack([x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)])
        self.totals = sums if self.totals is None else self.totals + sums
        self.count += x.shape[1]

    def _rows(self, value: Tensor) -> Tensor:
        """Return (channels, values)."""
        value = in_float64(value.detach())
        return value.reshape(1, -1) if self.single else value.movedim(-1 - self.trailing, 0).flatten(1)

    def line(self, through: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a and b, (channels,) each.

        through: (channels,), where the line is to be zero, z: a = mean((x - z) y) / mean((x - z)^2) is the best.

        >>> sums = Sums(trailing=0)
        >>> sums.add(torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[0.0], [0.0], [1.0]]))
        >>> [round(float(value), 4) for value in sums.line()]
        [0.5, 0.3333]
        """
        assert self.totals is not None and self.origin is not None
        x, y, xx, xy = self.totals / self.count
        if through is not None:
            away = self.origin[0] - in_float64(through)
            square = xx + 2 * away * x + away.square()
            product = xy + x * self.origin[1] + away * (y + self.origin[1])
            scale = product / square.clamp_min(torch.finfo(torch.float64).tiny)
            return scale, -scale * in_float64(through)
        variance = xx - x * x
        flat = variance <= 1e-24 * (xx + self.origin[0].square() + torch.finfo(torch.float64).tiny)
        scale = torch.where(flat, 0.0, (xy - x * y) / torch.where(flat, 1.0, variance))
        return scale, y + self.origin[1] - scale * (x + self.origin[0])
