"""Operators that work on every channel by itself: pooling, resizing, pixel shuffle."""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, shape_of


def spatial_rank(node: fx.Node) -> int:
    """Return how many spatial axes an operator has, from its name: `max_pool2d` has 2."""
    match = re.search(r"(\d)d", node.target._schema.name)  # type: ignore[union-attr]
    if match is None:
        raise NoRule
    return int(match.group(1))


def per_channel(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Keep all axes before the spatial ones; those are made anew, where the window is more than one position."""
    rank, axes = spatial_rank(node), state.axes(next(iter(arguments.values())))
    out = axes[:-rank]
    for dim, (axis, size) in enumerate(zip(axes[-rank:], shape_of(node)[-rank:], strict=True)):
        if _passes(arguments, dim):
            out.append(axis)
        else:
            state.pin(node, axis, "works over this axis as space")
            out.append(state.fixed(node, size))
    return out


def _passes(arguments: dict[str, Any], dim: int) -> bool:
    """Tell whether a pool's window lies on one position after the other along a spatial axis."""
    kernel, stride, padding = (_at(arguments.get(name), dim) for name in ("kernel_size", "stride", "padding"))
    return kernel == 1 and stride in (1, None) and not padding


def _at(value: Any, dim: int) -> Any:
    """Return what is given for one spatial axis; None where nothing is."""
    given = value if isinstance(value, list | tuple) else [value]
    return given[min(dim, len(given) - 1)] if given else None


def per_channel_with_indices(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Do the same for operators that also return where the maximum was."""
    shape = tuple(int(size) for size in node.meta["val"][0].shape)
    axes = _replace_last(state, node, next(iter(arguments.values())), shape, spatial_rank(node))
    return [axes, axes]


def resize(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Keep batch and channel; every axis after them is resized."""
    shape = shape_of(node)
    return _replace_last(state, node, next(iter(arguments.values())), shape, len(shape) - 2)


def _replace_last(state: Couplings, node: fx.Node, source: fx.Node, shape: tuple[int, ...], count: int) -> Axes:
    axes = state.axes(source)
    split = len(axes) - count
    for axis in axes[split:]:
        state.pin(node, axis, "works over this axis as space")
    return axes[:split] + [state.fixed(node, size) for size in shape[split:]]


def pixel_shuffle(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Move blocks of channels into space: what can be removed is a whole block of factor squared channels."""
    *before, channel, _, _ = state.axes(arguments["self"])
    inner = int(arguments["upscale_factor"]) ** 2
    why = state.why(node, "spreads blocks of channels over space")
    blocks, places, _ = state.units.split(channel, len(channel) // inner, inner, why)
    state.pin(node, places, "spreads these channels over space")
    return [*before, blocks, *(state.fixed(node, size) for size in shape_of(node)[-2:])]


def pixel_unshuffle(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Gather space into blocks of channels."""
    *before, channel, _, _ = state.axes(arguments["self"])
    inner = state.fixed(node, int(arguments["downscale_factor"]) ** 2)
    merged = state.units.merge(channel, inner)
    return [*before, merged, *(state.fixed(node, size) for size in shape_of(node)[-2:])]


def sample(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Sample every channel at the positions of a grid."""
    x, shape = state.axes(arguments["input"]), shape_of(node)
    for axis in x[2:]:
        state.pin(node, axis, "works over this axis as space")
    return [*x[:2], *(state.fixed(node, size) for size in shape[2:])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [f"{kind}{rank}d" for rank in (1, 2, 3) for kind in ("avg_pool", "max_pool", "adaptive_avg_pool")],
        per_channel,
    ),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), per_channel),
    **dict.fromkeys(
        [
            f"{kind}{rank}d{end}"
            for rank in (1, 2, 3)
            for kind, end in (("adaptive_max_pool", ""), ("max_pool", "_with_indices"))
        ],
        per_channel_with_indices,
    ),
    **dict.fromkeys(
        (
            "upsample_nearest1d",
            "upsample_nearest2d",
            "upsample_nearest3d",
            "upsample_linear1d",
            "upsample_bilinear2d",
            "upsample_trilinear3d",
            "upsample_bicubic2d",
            "_upsample_nearest_exact1d",
            "_upsample_nearest_exact2d",
            "_upsample_nearest_exact3d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
        ),
        resize,
    ),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), sample),
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
}
