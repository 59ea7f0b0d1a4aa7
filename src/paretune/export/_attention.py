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

_PACKET = torch.ops.aten.scaled_dot_product_attention
_ATTENTION = (scaled_dot_product_attention, _PACKET, _PACKET.default)


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
    given = [query, key, value]
    if all(each.dim() == 4 for each in given):
        return func(*given, attn_mask, **other)
    rank = max(each.dim() for each in given)
    given = [each[(None,) * (max(4, rank) - each.dim())] for each in given]
    lead = torch.broadcast_shapes(*(each.shape[:-3] for each in given))  # type: ignore[no-untyped-call]
    if attn_mask is not None and attn_mask.dim() > 3:  # one of fewer dimensions is the same for all of `lead`
        attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-3:]).flatten(0, -4)
    merged = [each.expand(*lead, *each.shape[-3:]).flatten(0, -4) for each in given]
    result = func(*merged, attn_mask, **other)
    result = result.reshape(*lead, *result.shape[-3:])
    return result[(0,) * (4 - rank)] if rank < 4 else result
