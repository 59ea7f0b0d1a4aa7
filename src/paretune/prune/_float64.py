"""Float64 for sums and solutions that float32 would spoil."""

from __future__ import annotations

from torch import Tensor


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none (MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
