"""Gradient clipping by value and by norm.

By norm: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
algorithm 1, arXiv:1211.5063: a gradient longer than the bound is scaled down to it and keeps its direction.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm


def clip_gradients(
    parameters: Iterable[torch.Tensor], *, norm: float | None = None, value: float | None = None
) -> float:
    """Clip gradients in place, by value and then by norm, and return the norm that they had before.

    norm: largest Euclidean norm of all gradients together. value: largest absolute value of an entry.
    The norm returned is not finite if any entry is not; then nothing that follows is to be trusted.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    before = length = get_total_norm([p.grad for p in trained if p.grad is not None])
    if value is not None:
        clip_grad_value_(trained, value)
        length = get_total_norm([p.grad for p in trained if p.grad is not None])
    if norm is not None:
        clip_grads_with_norm_(trained, norm, length)
    return float(before)
