"""ZipLM's saliency: the error that a channel adds to a reader's output when its turn to go has come.

Kurtic, Frantar and Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models", NeurIPS 2023,
section 3.1, arXiv:2302.04089.
Needs data, no labels, and no gradient. `obc` asks what is lost if a channel alone goes; of two channels that can
stand in for each other it calls both superfluous. Here the cheapest goes, the others make up for it, and the rest
are asked anew, until none is left: the last channels of a layer are worth what the layer is worth. So the scores
of a layer are the slope of its error against its width, which is what layers are compared by.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune._float64 import in_float64
from paretune.prune.scores._sparsegpt import DAMPING, damped_inverse

ROUNDS = 128
"""Of a layer with more channels than this, several go in a round, or a wide layer would take a day. Which of them
go, and in which order, is exact among the candidates; that another has become cheaper is seen a round later."""
ROOMY = 0.75
"""What is left is copied together once it is less than this part: a copy takes longer than a round."""


def ziplm(weight: Tensor, hessian: Tensor, *, damping: float = DAMPING) -> Tensor:
    """Score every unit P by the sum over outputs of w_P' ([H^-1]_PP)^-1 w_P, given what went before it.

    weight: (units, out, *within), the reading weight with what it reads first; `within` is the kernel.
    hessian: (units * within, units * within), the second moment E[x x'] of what the weights multiply, the unit
        outermost.
    damping: fraction of the mean diagonal that is added to the diagonal.
    Returns (units,) float32, in the unit of the reader's squared output, none below that of a unit that went
    before: the order of the scores is the order in which units went. Readers do not compare.

    Of an output that varies by 14, the first channel takes 1.5 with it, the second then all the rest:

    >>> ziplm(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), damping=0)
    tensor([ 1.5000, 12.5000])
    """
    units, within = len(weight), weight[0, 0].numel()
    rows = in_float64(weight).reshape(units, weight.shape[1], within).transpose(1, 2).reshape(units * within, -1)
    inverse = damped_inverse(hessian, damping)
    if not bool(torch.isfinite(inverse).all()):
        return torch.full((units,), torch.nan)
    scores, least = rows.new_zeros(units), 0.0
    left, stays = torch.arange(units, device=rows.device), torch.ones(units, dtype=torch.bool, device=rows.device)
    for going in _rounds(units):
        if int(stays.sum()) < ROOMY * len(stays):
            places = stays.repeat_interleave(within)
            rows, inverse, left = rows[places], inverse[places][:, places], left[stays]
            stays = stays[stays]
        lowest, value = _next(rows, inverse, within, stays, going)
        scores[left[lowest]] = value.clamp(min=least)
        least, stays[lowest] = max(least, float(value.max())), False
        _remove(rows, inverse, lowest, within)
    return scores.float()


def _rounds(units: int) -> list[int]:
    """Return how many units go in each round, at most ROUNDS of them."""
    each = -(-units // ROUNDS)
    return [min(each, units - done) for done in range(0, units, each)]


def _next(rows: Tensor, inverse: Tensor, within: int, stays: Tensor, going: int) -> tuple[Tensor, Tensor]:
    """Return the units that go next, one after the other, and the error that each adds.

    Of several, each is chosen from twice as many candidates: two that stand in for each other are both among them.
    """
    errors = _errors(rows, inverse, within).where(stays, torch.inf)
    if going == 1:
        value, unit = errors.min(dim=0, keepdim=True)
        return unit, value
    some = errors.topk(min(2 * going, int(stays.sum())), largest=False).indices
    places = _places(some, within)
    rows, inverse = rows[places], inverse[places][:, places]
    there, order, values = torch.ones_like(some, dtype=torch.bool), [], []
    for _ in range(going):
        value, unit = _errors(rows, inverse, within).where(there, torch.inf).min(dim=0, keepdim=True)
        _remove(rows, inverse, unit, within)
        there[unit] = False
        order.append(unit)
        values.append(value)
    return some[torch.cat(order)], torch.cat(values).cummax(dim=0).values


def _errors(rows: Tensor, inverse: Tensor, within: int) -> Tensor:
    """Return (units,) the error that each unit would add if it went next and alone: rows (units * within, out)."""
    units = len(rows) // within
    every = torch.arange(units, device=rows.device)
    blocks = inverse.reshape(units, within, units, within)[every, :, every, :]
    each = rows.reshape(units, within, -1)
    errors: Tensor = (each * (torch.linalg.inv(blocks) @ each)).flatten(1).sum(dim=1)
    return errors


def _remove(rows: Tensor, inverse: Tensor, units: Tensor, within: int) -> None:
    """Let the others make up for units, in the rows and in the inverse moment; what goes is left as ones."""
    goes = _places(units, within)
    across = inverse[:, goes]
    share = torch.linalg.solve(across[goes], across.T).T
    rows.sub_(share @ rows[goes])
    inverse.addmm_(share, across.T, alpha=-1)
    inverse[goes, goes] = 1  # whole blocks of zeros would have no inverse


def _places(units: Tensor, within: int) -> Tensor:
    """Return the rows of units."""
    return (units[:, None] * within + torch.arange(within, device=units.device)).flatten()
