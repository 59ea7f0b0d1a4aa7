"""LASSO channel selection: the penalty at which a channel drops out of what the next layer is rebuilt from.

He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1,
arXiv:1707.06168; the path: Efron et al., "Least angle regression", Annals of Statistics 2004, section 3.1.
Needs data, no labels, and no gradient. The paper raises the penalty until as few channels are left as are wanted;
the path holds the answer for every number. Its second half, least squares on the weights that stay, is no score.
Work grows with the cube of the channels: seconds for 512, minutes for 2048.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune.scores._contributions import gram_of_contributions


def lasso(weight: Tensor, hessian: Tensor) -> Tensor:
    """Score every channel by the largest penalty at which it is still used.

    With b the factors of the channels, min over b of E|Y - sum_c b_c W_c x_c|^2 / 2 + penalty * |b|_1.

    weight: (units, out, *within), the reading weight with what it reads first; `within` is the kernel.
    hessian: (units * within, units * within), the second moment E[x x'] of what the weights multiply, the unit
        outermost.
    Returns (units,) float32, as a fraction of the squared output: readers compare as they are. A channel that the
    others replace exactly scores 0.

    >>> lasso(torch.tensor([[1.0], [2.0], [2.0]]), torch.eye(3))
    tensor([0.1111, 0.4444, 0.4444])
    """
    gram = gram_of_contributions(weight, hessian)
    total = float(gram.sum().clamp_min(torch.finfo(torch.float32).tiny))
    return (entries(gram, gram.sum(dim=1)) / total).float().to(weight.device)


def entries(gram: Tensor, target: Tensor) -> Tensor:
    """Return (n,) the largest penalty at which each factor of the lasso is not zero, by least angle regression.

    gram: (n, n) X'X; target: (n,) X'y; both float64. Minimises |y - X b|^2 / 2 + penalty * |b|_1. As the penalty
    falls the factors in use move on a line, until another one's correlation with what is left of y reaches the
    penalty (it enters) or one of them crosses zero (it leaves). A factor that others replace exactly is 0.
    """
    gram, target = gram.cpu(), target.cpu()
    found, factors = torch.zeros_like(target), torch.zeros_like(target)
    start = penalty = float(target.abs().max())
    path = _Path(gram)
    unseen = gram.diagonal() > 0
    left = -1
    for _ in range(8 * len(gram)):  # a path has about n turns; no more than this, whatever rounding does
        if penalty <= 1e-9 * start or not bool(unseen.any()):
            break
        correlation = target - gram @ factors
        direction = path.direction(torch.sign(correlation[path.active]))
        enters, new = _first_to_enter(correlation, gram @ direction, penalty, path, left)
        leaves, gone = _first_to_leave(factors[path.active], direction[path.active])
        fall = min(enters, leaves, penalty)
        factors += fall * direction
        penalty, left = penalty - fall, -1
        if fall == leaves:
            left = path.active[gone]
            factors[left] = 0.0
            path.remove(gone)
        elif fall == enters:
            if path.add(new):
                found[new] = max(float(found[new]), penalty)
            unseen[new] = False
    return found


class _Path:
    """The factors in use, with the Cholesky factor of their part of the Gram matrix."""

    def __init__(self, gram: Tensor) -> None:
        self.gram = gram
        self.active = list[int]()
        self.useless = list[int]()
        """Factors that those in use replace exactly."""
        self._lower = gram.new_zeros(gram.shape)

    def add(self, index: int) -> bool:
        """Take a factor in, unless those in use replace it exactly."""
        size, own, column = len(self.active), self.gram[index, index], self.gram[index][self.active]
        row = torch.linalg.solve_triangular(self._lower[:size, :size], column[:, None], upper=False)[:, 0]
        rest = own - row @ row
        if rest <= 1e-10 * own:
            self.useless.append(index)
            return False
        self._lower[size, :size], self._lower[size, size] = row, rest.sqrt()
        self.active.append(index)
        return True

    def remove(self, place: int) -> None:
        """Let the factor at a place of `active` go."""
        del self.active[place]
        size = len(self.active)
        self._lower[:size, :size] = torch.linalg.cholesky(self.gram[self.active][:, self.active])

    def direction(self, signs: Tensor) -> Tensor:
        """Return (n,) how far each factor moves while the penalty falls by one."""
        size = len(self.active)
        moves = self.gram.new_zeros(len(self.gram))
        moves[self.active] = torch.cholesky_solve(signs[:, None], self._lower[:size, :size])[:, 0]
        return moves


def _first_to_enter(
    correlation: Tensor, slope: Tensor, penalty: float, path: _Path, left: int
) -> tuple[float, int]:
    """Return (how far the penalty falls until another factor's correlation reaches it, which).

    left: the factor that left at this very penalty, and may come back with the other sign alone; -1 for none.
    """
    infinite = correlation.new_tensor(torch.inf)
    above = torch.where(slope < 1, (penalty - correlation) / (1 - slope), infinite)
    below = torch.where(slope > -1, (penalty + correlation) / (1 + slope), infinite)
    if left >= 0:
        (above if correlation[left] > 0 else below)[left] = torch.inf
    fall = torch.minimum(above, below).clamp_min(0)
    fall[path.active + path.useless] = torch.inf
    new = int(fall.argmin())
    return float(fall[new]), new


def _first_to_leave(factors: Tensor, direction: Tensor) -> tuple[float, int]:
    """Return (how far the penalty falls until a factor in use crosses zero, its place among them)."""
    if not len(factors):
        return torch.inf, -1
    fall = torch.where(factors * direction < 0, -factors / direction, factors.new_tensor(torch.inf))
    gone = int(fall.argmin())
    return float(fall[gone]), gone
