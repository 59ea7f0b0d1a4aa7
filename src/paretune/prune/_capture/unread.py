"""What of a graph nobody reads: a branch whose share was cut still writes in place, into tensors of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

_NEW = (
    *(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)),
    *("linear", "add", "sub", "mul", "div", "cat", "batch_norm", "instance_norm", "group_norm", "layer_norm"),
)
"""Operators that always give a tensor of its own; others may give what they are given (dropout, type_as)."""


def remove_unread(graph: fx.Graph, own: Mapping[str, Any]) -> None:
    """Remove nodes that nobody reads; what writes in place stays, unless nobody reads what it writes into.

    own: the modules that the graph calls, by name. Inputs stay.
    """

    def stays(node: fx.Node) -> bool:
        if node.op in ("placeholder", "output"):
            return True
        return not all(_read_by(written, node, own) for written in _written(node))

    graph.eliminate_dead_code(is_impure_node=stays)


def _written(node: fx.Node) -> list[Any]:
    """Return what an operator writes into: nodes, or whatever else it was given."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
    return [given.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def _read_by(written: Any, reader: fx.Node, own: Mapping[str, Any]) -> bool:
    """Tell whether a node alone reads a tensor's memory, as far as that is known."""
    if not isinstance(written, fx.Node) or set(written.users) != {reader}:
        return False
    if written.op == "call_module":
        return isinstance(own.get(str(written.target)), _BatchNorm)  # dropout may give what it is given
    if not isinstance(written.target, torch._ops.OpOverload):
        return False
    before = _written(written)  # an operator that writes in place gives what it was given
    if before:
        return all(_read_by(each, written, own) for each in before)
    return written.target.overloadpacket.__name__ in _NEW
