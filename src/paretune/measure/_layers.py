"""Before and after, layer by layer: channels, multiply-accumulates and bytes of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paretune.measure._cost import macs_by_module

if TYPE_CHECKING:
    from torch import nn


def layer_table(
    before: nn.Module, after: nn.Module, example: Any, *, weight_bytes: int = 4
) -> list[dict[str, Any]]:
    """Return a row for each layer with weights: name, type, channels, macs and bytes, before and after.

    before, after: the same architecture, `after` perhaps narrower or with layers gone (their `after` is 0).
    weight_bytes: bytes of one weight of `after` in its file (1 for INT8).
    """
    old, new = _layers(before), _layers(after)
    old_macs, new_macs = macs_by_module(before, example), macs_by_module(after, example)
    return [
        {
            "name": name,
            "type": type(layer).__name__,
            "channels_before": _channels(layer),
            "channels_after": _channels(new.get(name)),
            "macs_before": old_macs.get(name, 0),
            "macs_after": new_macs.get(name, 0),
            "bytes_before": 4 * _weights(layer),
            "bytes_after": weight_bytes * _weights(new.get(name)),
        }
        for name, layer in old.items()
    ]


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that own a weight of two or more axes, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    }


def _weights(layer: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False)) if layer is not None else 0


def _channels(layer: nn.Module | None) -> int:
    """Return the output channels: what the layer says of itself, else the first axis of its widest parameter."""
    if layer is None:
        return 0
    for name in ("out_channels", "out_features", "embedding_dim", "hidden_size"):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    return int(max(layer.parameters(recurse=False), key=lambda parameter: parameter.ndim).shape[0])
