"""Units of weights: what is kept or set to zero as one, and its norm.

| unit | of a convolution (out, in, height, width) | of a matrix (out, in) |
|---|---|---|
| `weight` | a single weight | a single weight |
| `row` | a row of a kernel, (width,) | all weights of an output, (in,) |
| `kernel` | what an output reads from an input, (height, width) | a single weight |
| `filter` | all weights of an output, (in, height, width) | all weights of an output, (in,) |
| (r, c) | a block of r outputs and c of their in * height * width weights | a block of r x c weights |

Source of the units: Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
CVPR 2017 workshops, arXiv:1705.08922; of blocks: Gray, Radford and Kingma, "GPU Kernels for Block-Sparse Weights",
2017.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from paretune.errors import InputError, nearest
from paretune.prune._float64 import in_float64

UNITS = ("weight", "row", "kernel", "filter")
NORMS = ("l1", "l2")

Unit = str | tuple[int, int]


def check_unit(name: str, unit: Unit) -> Unit:
    """Return the unit, a block as a tuple; anything else is an InputError that lists what there is."""
    if isinstance(unit, list | tuple):
        if len(unit) == 2 and all(type(side) is int and side > 0 for side in unit):
            return unit[0], unit[1]
        raise InputError(f"{name}: unit={unit!r}: a block is (rows, columns), two whole numbers of at least 1")
    if unit not in UNITS:
        raise InputError(
            f"{name}: unit={unit!r} must be one of {', '.join(UNITS)}, or a block (rows, columns)."
            f"{nearest(str(unit), UNITS)}"
        )
    return unit


def as_units(weight: Tensor, unit: Unit) -> Tensor:
    """Return (units, weights of each), in the order of memory; a block that sticks out is filled with zeros."""
    if isinstance(unit, tuple):
        (rows, columns), matrix = unit, weight.reshape(weight.shape[0], -1)
        below, beside = -matrix.shape[0] % rows, -matrix.shape[1] % columns
        filled = pad(matrix, (0, beside, 0, below))
        tiles = filled.reshape(filled.shape[0] // rows, rows, -1, columns)
        return tiles.transpose(1, 2).reshape(-1, rows * columns)
    if unit == "row":
        return weight.reshape(-1, weight.shape[-1])
    if unit == "kernel":
        return weight.reshape(weight.shape[0] * weight.shape[1], -1) if weight.dim() > 1 else weight.reshape(-1, 1)
    return weight.reshape(weight.shape[0], -1) if unit == "filter" else weight.reshape(-1, 1)


def of_units(values: Tensor, shape: torch.Size, unit: Unit) -> Tensor:
    """Return a tensor of that shape in which every weight has the value of its unit; values: (units,)."""
    if isinstance(unit, tuple):
        (rows, columns), (height, width) = unit, (shape[0], shape[1:].numel())
        tiles = values.reshape(-(-height // rows), -(-width // columns))
        filled = tiles.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return filled[:height, :width].reshape(shape)
    each = shape.numel() // max(1, len(values))
    return values.repeat_interleave(each).reshape(shape)


def norms(weight: Tensor, unit: Unit, norm: str = "l1") -> Tensor:
    """Return the L1 or L2 norm of every unit, (units,) float64.

    Of single weights both are the absolute value, and agree to the last bit: the square of a float32 is exact in
    float64.

    >>> norms(torch.tensor([[3.0, -4.0], [0.0, 1.0]]), "filter", "l2")
    tensor([5., 1.], dtype=torch.float64)
    """
    wide = in_float64(as_units(weight.detach(), unit).abs())
    return wide.sum(1) if norm == "l1" else wide.square().sum(1).sqrt()
