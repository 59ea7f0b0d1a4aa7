"""Products of two activations, or of an activation with a parameter as it is.

The axis that is summed over can be cut where one side is a parameter. Between two activations (attention scores)
it cannot: no weight reads it, and code divides by its width.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from paretune.prune._couplings import Axes, Couplings, NoRule, Rule, shape_of
from paretune.prune._rules.pointwise import broadcast
from paretune.prune._units import Axis

_REORDER = (
    "aten::t",
    "aten::transpose",
    "aten::permute",
    "aten::numpy_T",
    "aten::mT",
    "aten::alias",
    "aten::detach",
)
_REMEDY = "nothing yet: the width of attention scores is cut together with the heads"


def matmul(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Multiply (..., n, k) by (..., k, m)."""
    left, right = [value for value in arguments.values() if isinstance(value, fx.Node)][:2]
    return _product(state, node, left, right)


def addmm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Add a bias to a product."""
    axes = _product(state, node, arguments["mat1"], arguments["mat2"])
    return broadcast(state, node, [axes, state.axes(arguments["self"])], shape_of(node))


def _product(state: Couplings, node: fx.Node, left: fx.Node, right: fx.Node) -> Axes:
    a, b = state.axes(left), state.axes(right)
    if len(a) < 2 or len(b) < 2:
        raise NoRule
    state.union(a[-1], b[-2])
    parameters = [
        (source, axes, made, read)
        for source, axes, made, read in (
            (_source(state, left), a, a[-2], a[-1]),
            (_source(state, right), b, b[-1], b[-2]),
        )
        if source
    ]
    if not parameters:
        state.pin(node, a[-1], "multiplies two activations over this axis", _REMEDY)
    for source, _, made, read in parameters:
        _role(state, node, source, made, read)
    shape = shape_of(node)
    batch = broadcast(state, node, [a[:-2], b[:-2]], shape[:-2])
    state.cost(node, *batch, a[-2], b[-1], a[-1])
    return [*batch, a[-2], b[-1]]


def _source(state: Couplings, node: fx.Node) -> fx.Node | None:
    """Return the parameter that a node gives, as it is or with its axes in another order."""
    while node not in state.parameters:
        if node.op != "call_function" or getattr(node.target, "_schema", None) is None:
            return None
        if node.target._schema.name not in _REORDER:  # type: ignore[union-attr]
            return None
        node = node.args[0]  # type: ignore[assignment]
    return node


def _role(state: Couplings, node: fx.Node, source: fx.Node, made: Axis, read: Axis) -> None:
    for index, axis in enumerate(state.axes(source)):
        if axis is made:
            state.make(node, source, index)
        elif axis is read:
            state.read(node, source, index, axis)


def attention(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """softmax(query key') value, with query (..., L, E), key (..., S, E), value (..., S, V)."""
    query, key, value = (state.axes(arguments[name]) for name in ("query", "key", "value"))
    if not len(query) == len(key) == len(value) or arguments.get("enable_gqa"):
        raise NoRule
    for mine, other, third in zip(query[:-2], key[:-2], value[:-2], strict=True):
        state.union(mine, other)
        state.union(mine, third)
    state.union(query[-1], key[-1])
    state.union(key[-2], value[-2])
    state.pin(node, query[-1], "divides by the square root of this width", _REMEDY)
    state.pin(node, key[-2], "takes a softmax over this axis")
    if arguments.get("attn_mask") is not None:
        scores = [*query[:-2], query[-2], key[-2]]
        broadcast(state, node, [scores, state.axes(arguments["attn_mask"])], tuple(map(len, scores)))
    state.cost(node, *query[:-1], key[-2], query[-1])
    state.cost(node, *query[:-1], key[-2], value[-1])
    return [*query[:-1], value[-1]]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "addmm": addmm,
    "scaled_dot_product_attention": attention,
}
