"""Operators that are written in terms of others become those others, where only those have rules.

`torch.export` keeps composite operators whole (`torch.ops.aten.multiply`, `hstack`, `cosine_similarity`,
`gru_cell`), hundreds of them; what they consist of is a few. An operator whose parts are no better known stays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from paretune.prune._capture.recompose import recompose

Known = Callable[[Any], bool]
"""Whether an operator has a rule."""


def decompose(graph: fx.Graph, known: Known) -> None:
    """Replace every composite operator without a rule by its parts, if these have rules, in place.

    What another decomposition took apart too far is put together before (`recompose`).
    """
    recompose(graph)
    for node in list(graph.nodes):
        if _is_composite(node.target) and not known(node.target) and (parts := _parts(node, known)) is not None:
            _replace(graph, node, parts)


def _is_composite(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(),  # type: ignore[no-untyped-call]
        "CompositeImplicitAutograd",
    )


def _parts(node: fx.Node, known: Known) -> fx.Graph | None:
    """Return the graph of what an operator consists of, with its inputs in order; None where some is unknown."""
    inputs = node.all_input_nodes
    values = [n.meta.get("val") for n in inputs]
    if not all(isinstance(value, torch.Tensor) for value in values):
        return None

    def run(*given: torch.Tensor) -> Any:
        by_node = dict(zip(inputs, given, strict=True))
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), by_node.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    try:
        graph = make_fx(run)(*values).graph
    except Exception:  # a value that the operator looks at, a device that is not there: it stays whole
        return None
    calls = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    whole = all(n.op == "call_function" and (known(n.target) or n.target is operator.getitem) for n in calls)
    return graph if whole else None


def _replace(graph: fx.Graph, node: fx.Node, parts: fx.Graph) -> None:
    before = set(graph.nodes)
    inline(graph, node, parts, node.all_input_nodes)
    for new in set(graph.nodes) - before:
        new.meta = {**{key: node.meta[key] for key in _WHERE if key in node.meta}, **new.meta}


def inline(graph: fx.Graph, node: fx.Node, parts: fx.Graph, inputs: Sequence[Any]) -> None:
    """Put the nodes of another graph, called with `inputs`, in the place of a node."""
    inner = [n for n in parts.nodes if n.op == "placeholder"]
    with graph.inserting_before(node):
        outputs: Any = graph.graph_copy(parts, dict(zip(inner, inputs, strict=True)))
    if isinstance(outputs, Sequence):
        for user in list(node.users):
            user.replace_all_uses_with(outputs[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(outputs)
    graph.erase_node(node)


_WHERE = ("nn_module_stack", "stack_trace", "torch_fn", "source_fn_stack")
"""What says where in the user's code a node comes from."""
