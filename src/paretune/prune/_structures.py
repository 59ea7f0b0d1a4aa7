"""Pruning of one kind of structure: attention heads, feed-forward neurons, the width of the embedding, experts.

Each is `channels` with a choice of `structures`, and takes what `channels` takes: a target, a score, data.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from paretune.errors import InputError, nearest
from paretune.prune._channels import channels
from paretune.prune._cut import Pruned


def heads(model: nn.Module, example: Any, *, within: bool = False, **how: Any) -> Pruned:
    """Remove whole attention heads; where several query heads share a key-value head they go together.

    within: remove widths inside the heads instead, the same positions of every head: what queries share with keys,
    and what the values have. One of the two alone is `channels(..., structures=("query_key",))` or `("value",)`.
    how: what `channels` takes; `ratio=0.5` where no target is given.

    Source: Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, arXiv:1905.10650.
    """
    if not isinstance(within, bool):
        raise InputError(f"within={within!r} must be True, for widths inside the heads, or False, for whole heads")
    return _only(("query_key", "value") if within else ("heads",), model, example, how)


def neurons(model: nn.Module, example: Any, **how: Any) -> Pruned:
    """Remove neurons of linear layers that nothing else is added to: the inner width of feed-forward blocks."""
    return _only(("neurons",), model, example, how)


def embedding(model: nn.Module, example: Any, **how: Any) -> Pruned:
    """Remove positions of the embedding, and of every layer that adds to it or reads it (the residual width)."""
    return _only(("embedding",), model, example, how)


def experts(model: nn.Module, example: Any, **how: Any) -> Pruned:
    """Remove whole experts of a mixture, with their outputs of the router."""
    return _only(("experts",), model, example, how)


def _only(structures: tuple[str, ...], model: nn.Module, example: Any, how: dict[str, Any]) -> Pruned:
    if "structures" in how:
        raise InputError(
            f"structures={how['structures']!r}: this function is channels(..., structures={structures}); call "
            "channels for others"
        )
    takes = inspect.signature(channels).parameters
    for name in how:
        if name not in takes:
            raise InputError(
                f"{name}={how[name]!r}: this function takes what prune.channels takes: "
                f"{', '.join(takes)}.{nearest(name, takes)}"
            )
    targets = ("ratio", "threshold", "macs", "params", "size", "latency", "widths")
    if not any(how.get(target) is not None for target in targets):
        how = {**how, "ratio": 0.5}
    return channels(model, example, structures=structures, **how)
