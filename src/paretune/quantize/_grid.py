"""Uniform integer grids: real = (integer - zero_point) * scale.

Source: Jacob et al., CVPR 2018, section 2.1, arXiv:1712.05877. Activations are unsigned and asymmetric (ONNX
Runtime's x86 kernels want them unsigned), weights signed and symmetric, one scale for each output channel
(Krishnamoorthi 2018, section 3.1, arXiv:1806.08342).
"""

from __future__ import annotations

import numpy as np

SMALLEST_SCALE = 2.0**-60
"""The product of two scales, a bias's own scale, must still be a normal float32."""
LARGEST_BIAS = 2.0**30


def affine(low: float, high: float, bits: int = 8) -> tuple[np.float32, int]:
    """Return (scale, zero point) of the unsigned grid that covers [low, high]; 0 lies on the grid exactly.

    A range without extent (a tensor that is always 0) has scale 1.

    >>> affine(-1.0, 1.55)
    (np.float32(0.01), 100)
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high == low:
        return np.float32(1.0), 0
    scale = np.float32(max((high - low) / (2**bits - 1), SMALLEST_SCALE))
    return scale, int(np.clip(np.rint(-low / float(scale)), 0, 2**bits - 1))


def round_trip(values: np.ndarray, scale: np.float32, zero_point: int, bits: int = 8) -> np.ndarray:
    """Return what QuantizeLinear and DequantizeLinear make of the values: rounded half to even, clipped."""
    integers = np.clip(np.rint(values / scale) + zero_point, 0, 2**bits - 1)
    return np.asarray((integers - zero_point) * scale)


def weight_scales(weight: np.ndarray, axis: int | None, largest: int = 127) -> np.ndarray:
    """Return the float32 scales of a symmetric grid that reaches each channel's largest |weight|.

    weight: any shape; axis: its output channels, None for one scale in all. Returns (channels,) or ().
    largest: the largest integer used; 64 keeps pairs of products in 16 bits on CPUs without VNNI.
    """
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    reach = np.abs(weight).max(axis=others).astype(np.float64)
    scales = np.where(reach > 0, np.maximum(reach / largest, SMALLEST_SCALE), 1.0)
    return np.asarray(scales, dtype=np.float32)


def quantize_weight(weight: np.ndarray, scales: np.ndarray, axis: int | None, largest: int = 127) -> np.ndarray:
    """Return the int8 weights of that grid, in the weight's shape."""
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    wide = scales.astype(np.float64) if axis is None else scales.astype(np.float64).reshape(shape)
    return np.asarray(np.clip(np.rint(weight / wide), -largest, largest).astype(np.int8))


def scales_for_bias(scales: np.ndarray, bias: np.ndarray, input_scale: np.float32) -> np.ndarray:
    """Return weight scales raised where the bias, an int32 in steps of input scale * weight scale, would overflow.

    It happens in channels that pruning or weight decay left almost empty beside a bias that is not.
    """
    reach = np.abs(bias.astype(np.float64))
    needed = (reach.max() if scales.ndim == 0 else reach) / (float(input_scale) * LARGEST_BIAS)
    return np.asarray(
        np.maximum(scales, needed.astype(np.float32) if isinstance(needed, np.ndarray) else needed),
        dtype=np.float32,
    )


def quantize_bias(bias: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the int32 bias in steps of `scales`, the input's scale times the weight's."""
    return np.asarray(np.rint(bias.astype(np.float64) / scales.astype(np.float64)).astype(np.int32))
