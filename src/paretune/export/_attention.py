"""Attention over any number of leading dimensions, as the exporter takes it: over four.

`scaled_dot_product_attention` takes (..., heads, L, E), and windows of an image are often a fifth dimension;
attention without heads has three. torch.onnx writes it for (batch, heads, L, E) alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

_ATTENTION = (scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention.default)


class FourDimensional(TorchFunctionMode):
    """While it is entered, every attention is computed over four dimensions, with the same result."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; attention with its leading dimensions merged."""
        kwargs = kwargs or {}
        if func not in _ATTENTION:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
        return _attend(func, **given, **kwargs)


def _attend(
    func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **other: Any
) -> Any:
    if query.dim() == 4:
        return func(query, key, value, attn_mask, **other)
    lead = query.shape[:-3]
    if (
        attn_mask is not None and attn_mask.dim() > 3
    ):  # one of three dimensions or fewer is the same for all of lead
        attn_mask = _merged(attn_mask.expand(*lead, *attn_mask.shape[-3:]))
    merged = [_merged(each.expand(*lead, *each.shape[-3:])) for each in (query, key, value)]
    result = func(*merged, attn_mask, **other)
    return result.reshape(*query.shape[:-1], value.shape[-1])


def _merged(tensor: Tensor) -> Tensor:
    """Return (..., a, b, c) as (n, a, b, c)."""
    return tensor.flatten(0, -4) if tensor.dim() > 3 else tensor[(None,) * (4 - tensor.dim())]
