"""N:M sparsity: of every M weights in a row, the N of the highest score stay.

Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378 (2:4, for sparse tensor cores).
Shapes stay as they are, so a runtime without kernels for the pattern, as ONNX Runtime on a CPU is, gets no faster.
"""

from __future__ import annotations

from torch import Tensor

from paretune.errors import InputError, RunError, check_whole


def n_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Return which weights stay: the n highest scores of every m neighbours along the input axis, axis 1.

    scores: (out, in, *kernel), one for each weight, of any kind: `weight.abs()` is the usual one.
    Returns a bool tensor like scores; of equal scores the first stay. An input axis that m does not divide, and an
    n that is not from 1 to m, are an InputError.

    >>> import torch
    >>> n_m(torch.tensor([[0.1, 3.0, 2.0, 0.5]]), 2, 4)
    tensor([[False,  True,  True, False]])
    """
    if not isinstance(scores, Tensor) or scores.dim() < 2:
        given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"type {type(scores).__name__}"
        raise InputError(f"n_m: scores of {given}; give (out, in, *kernel), one for each weight")
    check_whole("n_m: n", n, least=0)
    check_whole("n_m: m", m)
    if bool(scores.isnan().any()):
        raise RunError("n_m: some scores are NaN, so that they have no order: look for NaN in the weights")
    if not 1 <= n <= m:
        raise InputError(f"n_m: n={n} must be from 1 to m={m}: n of every m weights stay, as 2 of 4")
    if scores.shape[1] % m:
        raise InputError(
            f"n_m: m={m} must divide the {scores.shape[1]} inputs of scores {tuple(scores.shape)}; leave this "
            "layer dense, or choose an m that does"
        )
    runs = scores.movedim(1, -1).reshape(*scores.shape[:1], *scores.shape[2:], -1, m)
    order = runs.argsort(dim=-1, descending=True, stable=True)
    stays = order.argsort(dim=-1) < n  # the inverse of a permutation: the rank of each
    mask: Tensor = stays.flatten(-2).movedim(-1, 1)
    return mask
