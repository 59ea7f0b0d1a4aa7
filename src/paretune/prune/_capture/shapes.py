"""Shapes that depend on values (`x[mask]`, `nonzero`): for the analysis they are those of the example.

The exporter leaves symbols in them. Here the captured graph is run on the example, and what each node gave takes
the symbols' place, as tensors without data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from paretune.data import map_tensors
from paretune.prune._capture.capture import Capture, quiet
from paretune.prune._capture.graph import named_arguments, runnable


def settle_shapes(model: nn.Module, captured: Capture) -> bool:
    """Replace symbols in the captured nodes' values, and tell whether there were any."""
    nodes = [node for node in captured.program.graph.nodes if node.op == "call_function"]
    if not any(map(_has_symbols, nodes)):
        return False
    seen = _Seen(runnable(model, captured, None))
    with torch.no_grad(), quiet():
        seen.run(*(value for _, value in named_arguments(model, captured.example)))
    for node in nodes:
        if node.name in seen.values and _has_symbols(node):
            node.meta["val"] = seen.values[node.name]
    return True


class _Seen(fx.Interpreter):
    """Keeps what every node gives, without data."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n.name] = map_tensors(lambda tensor: torch.empty_like(tensor, device="meta"), value)
        return value


def _has_symbols(node: fx.Node) -> bool:
    return any(
        isinstance(leaf, torch.SymInt | torch.SymBool | torch.SymFloat)
        or (isinstance(leaf, torch.Tensor) and not all(type(size) is int for size in leaf.shape))
        for leaf in pytree.tree_leaves(node.meta.get("val"))
    )
