"""Two linear layers in a row are one: linear after linear, convolution after convolution.

A convolution of stride s1 and dilation d1 with taps i, then one of s2 and d2 with taps j, reads at the
offset s1 * d2 * j + d1 * i of every (s1 * s2)-th place: the kernels are convolved, the strides multiplied. A
padded second convolution sees zeros around what the first gives, where one merged layer would see what the first
gives of a padded input: the two agree only where the first neither mixes places nor adds a bias (a 1x1).

Source: Fu et al., "DepthShrinker: A New Compression Paradigm Towards Boosting Real-Hardware Efficiency of Compact
Neural Networks", ICML 2022, arXiv:2206.00843, which trains after the merge and so lets the border differ; here
the function is kept.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS: dict[type[nn.Module], str] = {nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d"}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NEGLIGIBLE = 1e-12
"""A bias of so much of the largest weight is what rounding in float64 left of zero."""


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution; of a linear layer the kernel has no axes, and the numbers are empty."""

    weight: Tensor
    """(out, in / groups, *kernel)."""
    bias: Tensor
    """(out,); zeros where there is none."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    """With zeros, on both sides of each axis."""
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of the kernel along each axis."""
        return tuple(self.weight.shape[2:])

    def spec(self) -> tuple[str, dict[str, Any]]:
        """Return the kind of module that this is, and what it is made with."""
        out, width = self.weight.shape[:2]
        if not self.kernel:
            return "linear", {"in_features": width, "out_features": out, "bias": True}
        return f"conv{len(self.kernel)}d", {
            "in_channels": width * self.groups,
            "out_channels": out,
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": True,
        }


def layer_of(module: nn.Module) -> Layer | None:
    """Return what a module computes as a layer, or None where it is none that can be merged."""
    if type(module) is nn.Linear:
        return Layer(module.weight.detach(), _bias(module))
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or type(module) not in CONVOLUTIONS:
        return None
    padding = _padding(module)
    if padding is None or (module.padding_mode != "zeros" and any(padding)):
        return None
    numbers = (tuple(module.stride), padding, tuple(module.dilation))
    return Layer(module.weight.detach(), _bias(module), *numbers, module.groups)


def _bias(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach()
    return weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()


def _padding(module: Any) -> tuple[int, ...] | None:
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding == "same":
        whole = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return None if any(size % 2 for size in whole) else tuple(size // 2 for size in whole)
    return tuple(module.padding)


def is_norm(module: Any) -> bool:
    """Tell whether a module is a batch norm that uses running statistics, so that it is linear in eval mode."""
    return type(module) in NORMS and module.running_mean is not None


def normed(layer: Layer, norm: Any) -> Layer:
    """Return a layer with the batch norm behind it, in eval mode, folded in."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scaled(layer, scale, shift if norm.bias is None else shift + norm.bias.detach())


def scaled(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """Return a layer whose output y is scale * y + shift; both (out,), or (1,) for all."""
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return replace(layer, weight=weight, bias=layer.bias * scale + shift)


def obstacle(first: Layer, second: Layer) -> str:
    """Return why one layer would not be the two, in words; empty where it is."""
    if len(first.kernel) != len(second.kernel):
        return "one is linear and one a convolution, or their axes differ in number"
    padded = [axis for axis, padding in enumerate(second.padding) if padding]
    if any(first.kernel[axis] > 1 for axis in padded):
        return "the second pads with zeros what the first gives, and the first mixes places"
    if padded and float(first.bias.abs().max()) > NEGLIGIBLE * float(first.weight.abs().max()):
        return "the second pads with zeros what the first gives, and the first has a bias, which is no zero"
    return ""


def composed(first: Layer, second: Layer) -> Layer:
    """Return the one layer that two in a row are, where `obstacle` finds nothing.

    >>> double = Layer(torch.tensor([[2.0]]), torch.tensor([1.0]))
    >>> both = composed(double, Layer(torch.tensor([[1.0]]), torch.tensor([3.0])))
    >>> both.weight, both.bias
    (tensor([[2.]]), tensor([4.]))
    """
    near, far = _dense(first), _dense(second)
    taps = [s * d for s, d in zip(first.stride, second.dilation, strict=True)]
    dilation, size = [], []
    for k1, k2, d1, tap in zip(first.kernel, second.kernel, first.dilation, taps, strict=True):
        unit = math.gcd(d1 if k1 > 1 else 0, tap if k2 > 1 else 0) or 1
        dilation.append(unit)
        size.append((tap * (k2 - 1) + d1 * (k1 - 1)) // unit + 1)
    weight = near.new_zeros(len(far), near.shape[1], *size)
    for place in itertools.product(*map(range, second.kernel)):
        window: tuple[slice, ...] = tuple(
            slice(tap * j // unit, (tap * j + d1 * (k1 - 1)) // unit + 1, max(d1 // unit, 1))
            for tap, j, unit, d1, k1 in zip(taps, place, dilation, first.dilation, first.kernel, strict=True)
        )
        tap_of: Any = (slice(None), slice(None), *place)
        weight[(slice(None), slice(None), *window)] += torch.tensordot(far[tap_of], near, 1)
    groups = math.gcd(first.groups, second.groups)
    return Layer(
        weight=_grouped(weight, groups),
        bias=second.bias + far.reshape(*far.shape[:2], -1).sum(2) @ first.bias,
        stride=tuple(a * b for a, b in zip(first.stride, second.stride, strict=True)),
        padding=tuple(p + s * q for p, s, q in zip(first.padding, first.stride, second.padding, strict=True)),
        dilation=tuple(dilation),
        groups=groups,
    )


def _dense(layer: Layer) -> Tensor:
    """Return the weight (out, in, *kernel) with the zeros between groups written out."""
    blocks = layer.weight.chunk(layer.groups)
    width = layer.weight.shape[1]
    dense = layer.weight.new_zeros(len(layer.weight), width * layer.groups, *layer.kernel)
    for group, block in enumerate(blocks):
        start = group * len(block)
        dense[start : start + len(block), group * width : (group + 1) * width] = block
    return dense


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Return (out, in / groups, *kernel): the blocks on the diagonal."""
    rows, width = weight.chunk(groups), weight.shape[1] // groups
    return torch.cat([block[:, group * width : (group + 1) * width] for group, block in enumerate(rows)])
