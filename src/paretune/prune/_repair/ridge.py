"""Ridge regression from a stream of rows: the sums are kept, the rows are not.

Minimises over D and c, for outputs r and inputs x, the mean of |r - D x - c|^2 + ridge * s * |D|^2 with s the
mean square of an input (its variance where there is an intercept c), so that a ridge means the same in every
layer; Hoerl and Kennard, "Ridge Regression", Technometrics 1970. The ridge is chosen from `RIDGES` by what is
left of r in the half of the rows that was not used; the answer is then that of all rows. Sums are float64:
neighbouring pixels are so much alike that half of the digits are lost.

Where there are more inputs than `WIDEST`, rows are held instead, fewer of them than inputs: the answer then lies
in the space that the rows span, and the same equations are solved there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.prune._float64 import in_float64

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
WIDEST = 4096
"""Inputs up to which sums of products are kept: 128 MiB for each half of the rows."""


@dataclass
class _Sums:
    """Sums over rows, for each of b blocks: d inputs x, o outputs r."""

    rows: int
    x: Tensor
    """(b, d)"""
    r: Tensor
    """(b, o)"""
    xx: Tensor
    """(b, d, d)"""
    rx: Tensor
    """(b, o, d)"""
    rr: Tensor
    """(b, o)"""

    def __add__(self, other: _Sums) -> _Sums:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("rows", "x", "r", "xx", "rx", "rr"))
        return _Sums(*(a + b for a, b in pairs))

    def error(self, change: Tensor, shift: Tensor) -> Tensor:
        """Return (b, o) the mean of (r - change x - shift)^2."""
        n, along = max(1, self.rows), (change * self.x[:, None]).sum(2)
        square = self.rr - 2 * (change * self.rx).sum(2) + ((change @ self.xx) * change).sum(2)
        cross = n * shift.square() - 2 * shift * (self.r - along)
        return ((square + cross) / n).clamp_min(0)


class Ridge:
    """A regression of b separate blocks, fed batch by batch."""

    def __init__(self, *, intercept: bool) -> None:
        self.intercept = intercept
        self._halves: list[_Sums] = []
        self._held: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, r: Tensor) -> None:
        """Take rows in: x (b, n, d), r (b, n, o), of any float type; each half of the data has half of them."""
        x, r = in_float64(x), in_float64(r)
        if x.shape[2] > WIDEST:
            self._held.append((x, r))
            return
        middle = (x.shape[1] + 1) // 2
        new = [_sums(x[:, part], r[:, part]) for part in (slice(None, middle), slice(middle, None))]
        self._halves = [a + b for a, b in zip(self._halves, new, strict=True)] if self._halves else new

    def solve(self, ridge: float | None = None) -> tuple[Tensor, Tensor, float]:
        """Return (D (b, o, d), c (b, o), the ridge used); D = 0 and infinity where no ridge helps the other half.

        ridge: taken as it is; None lets the data choose.
        """
        if not self._held:
            return _solve(self._halves, ridge, self.intercept)
        x, r = self._all_held()
        basis, coordinates = torch.linalg.qr(x.transpose(1, 2))  # (b, d, n), (b, n, n)
        rows = coordinates.transpose(1, 2)
        halves = [_sums(rows[:, part], r[:, part]) for part in (slice(0, None, 2), slice(1, None, 2))]
        change, shift, used = _solve(halves, ridge, self.intercept, scale=x.shape[1] / x.shape[2])
        return change @ basis.transpose(1, 2), shift, used

    def error(self, change: Tensor, shift: Tensor) -> Tensor:
        """Return (b, o) the mean square over all rows of r - change x - shift."""
        if not self._held:
            return sum(self._halves[1:], self._halves[0]).error(change, shift)
        x, r = self._all_held()
        return (r - x @ change.transpose(1, 2) - shift[:, None]).square().mean(dim=1)

    def _all_held(self) -> tuple[Tensor, Tensor]:
        """Return the held rows as one batch, and keep them so."""
        self._held = [tuple(torch.cat(parts, dim=1) for parts in zip(*self._held, strict=True))]  # type: ignore[list-item]
        return self._held[0]


def _sums(x: Tensor, r: Tensor) -> _Sums:
    across = r.transpose(1, 2)
    return _Sums(x.shape[1], x.sum(1), r.sum(1), x.transpose(1, 2) @ x, across @ x, r.square().sum(1))


def _solve(
    halves: list[_Sums], ridge: float | None, intercept: bool, scale: float = 1.0
) -> tuple[Tensor, Tensor, float]:
    """Solve over all rows; scale: of the mean square of an input, where `halves` are in other coordinates."""
    whole = halves[0] + halves[1]
    if ridge is None:
        ridge = _chosen(halves, intercept, scale)
    if ridge == float("inf"):
        return torch.zeros_like(whole.rx), torch.zeros_like(whole.r), ridge
    return (*_fit(whole, ridge, intercept, scale), ridge)


def _chosen(halves: list[_Sums], intercept: bool, scale: float) -> float:
    """Return the ridge that leaves least in the half that it was not fitted on; infinity stands for no change.

    Every output counts alike, as a part of what was to be explained of it.
    """
    if min(half.rows for half in halves) < 2:
        return float("inf")
    nothing = [torch.zeros_like(half.rx) for half in halves], [torch.zeros_like(half.r) for half in halves]
    before = [half.error(*zero) for half, *zero in zip(halves, *nothing, strict=True)]
    best, least = float("inf"), 1.0
    for ridge in RIDGES:
        left = []
        for half, other, unexplained in ((halves[0], halves[1], before[1]), (halves[1], halves[0], before[0])):
            after = other.error(*_fit(half, ridge, intercept, scale))
            seen = unexplained > 0
            left.append((after[seen] / unexplained[seen]).mean() if bool(seen.any()) else after.new_ones(()))
        mean = float(torch.stack(left).mean())
        if mean < least:
            best, least = ridge, mean
    return best


def _fit(sums: _Sums, ridge: float, intercept: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Return (D, c) for one ridge, by Cholesky's factors; a ridge that rounding swallows is raised tenfold."""
    n = sums.rows
    x, r = sums.x / n, sums.r / n
    second, across = sums.xx / n, sums.rx / n
    if intercept:
        second, across = second - x[:, :, None] * x[:, None], across - r[:, :, None] * x[:, None]
    diagonal = second.diagonal(dim1=1, dim2=2)
    size = diagonal.mean(dim=1).clamp_min(torch.finfo(second.dtype).tiny) * scale
    while True:
        damped = second.clone()
        damped.diagonal(dim1=1, dim2=2).add_((ridge * size)[:, None])
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()) or ridge > 1e3:
            break
        ridge = max(10 * ridge, 1e-12)
    change = torch.cholesky_solve(across.transpose(1, 2), factor).transpose(1, 2)
    return change, r - (change * x[:, None]).sum(2) if intercept else torch.zeros_like(r)
