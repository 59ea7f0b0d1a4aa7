"""Operators that `run_decompositions` makes of whole ones become those again, which have rules; and `torch.max` of
two tensors what it is.

A captured graph holds them where the user's code calls them (`torch.convolution`, `torch.native_layer_norm`) or is
a decomposed graph itself. One of which more than the first result is read stays.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import normalize_function

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...]]
"""An operator and its arguments."""


def recompose(graph: fx.Graph) -> None:
    """Replace every operator that a decomposition made by the one that it was made of, in place."""
    for node in list(graph.nodes):
        whole = _WHOLE.get(node.target)
        if whole is None:
            continue
        parts = [user for user in node.users if user.target is operator.getitem]
        several = isinstance(node.meta.get("val"), list | tuple)
        read = [part for part in parts if part.users] if several else [node]
        if several and (len(parts) < len(node.users) or [part.args[1] for part in read] != [0]):
            continue
        given = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
        call = None if given is None else whole(given.kwargs)
        if call is None:
            continue
        (result,) = read
        with graph.inserting_before(result):
            made = graph.call_function(*call)
        made.meta = {**node.meta, "val": result.meta["val"]}
        result.replace_all_uses_with(made)
        for old in (*parts, node) if several else (node,):
            graph.erase_node(old)


def _convolution(given: dict[str, Any]) -> Call | None:
    """torch.convolution, of any rank, transposed or not."""
    rank = len(given["weight"].meta["val"].shape) - 2
    if not 1 <= rank <= 3 or len(given["input"].meta["val"].shape) != rank + 2:
        return None
    names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    if given["transposed"]:
        names[5:] = ["output_padding", "groups", "dilation"]
    overload = "input" if given["transposed"] and rank > 1 else "default"
    packet = getattr(aten, f"conv_transpose{rank}d" if given["transposed"] else f"conv{rank}d")
    return getattr(packet, overload), tuple(given[name] for name in names)


def _layer_norm(given: dict[str, Any]) -> Call:
    return aten.layer_norm.default, tuple(given[n] for n in ("input", "normalized_shape", "weight", "bias", "eps"))


def _group_norm(given: dict[str, Any]) -> Call | None:
    batch, channels, *space = given["input"].meta["val"].shape
    if (given["N"], given["C"], given["HxW"]) != (batch, channels, math.prod(space)):  # it reads another shape
        return None
    return aten.group_norm.default, tuple(given[name] for name in ("input", "group", "weight", "bias", "eps"))


def _batch_norm(given: dict[str, Any]) -> Call:
    parts = [given[name] for name in ("input", "weight", "bias", "running_mean", "running_var")]
    return aten.batch_norm.default, (*parts, False, given["momentum"], given["eps"], False)


def _elementwise(packet: Any) -> Callable[[dict[str, Any]], Call]:
    return lambda given: (packet.default, tuple(given.values()))


_WHOLE: dict[Any, Callable[[dict[str, Any]], Call | None]] = {
    aten.convolution.default: _convolution,
    aten.max.other: _elementwise(aten.maximum),  # of two tensors, where `max` of one is a reduction
    aten.min.other: _elementwise(aten.minimum),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
}
