"""Products of two activations, or of an activation with a parameter as it is.

The axis that is summed over is coupled on both sides, and what is removed of it counts as zero: between two
activations (attention scores) both lose the same positions. A scale that was computed from its width is a number
in the graph and stays as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, axis_index, shape_of
from paretune.prune._couplings.rules.pointwise import broadcast
from paretune.prune._couplings.units import Axis

_REORDER = (
    "aten::t",
    "aten::transpose",
    "aten::permute",
    "aten::numpy_T",
    "aten::mT",
    "aten::alias",
    "aten::detach",
)


def matmul(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Multiply (..., n, k) by (..., k, m); a vector counts as (1, k) on the left and as (k, 1) on the right."""
    left, right = [value for value in arguments.values() if isinstance(value, fx.Node)][:2]
    return _product(state, node, left, right, shape_of(node))


def addmm(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Add a bias to a product."""
    left, right = ("mat1", "mat2") if "mat1" in arguments else ("batch1", "batch2")
    axes = _product(state, node, arguments[left], arguments[right], shape_of(node))
    return broadcast(state, node, [axes, state.axes(arguments["self"])], shape_of(node))


def _product(state: Couplings, node: fx.Node, left: fx.Node, right: fx.Node, shape: tuple[int, ...]) -> Axes:
    a, b = state.axes(left), state.axes(right)
    read = len(b) - 2 if len(b) > 1 else 0
    state.union(a[-1], b[read])
    made_left, made_right = a[-2:-1], b[-1:] if len(b) > 1 else []
    _read(state, node, [(left, len(a) - 1), (right, read)])
    for source, made in ((source_of(state, left), made_left), (source_of(state, right), made_right)):
        if source and made:
            _make(state, node, source, made[0])
    before = shape[: len(shape) - len(made_left) - len(made_right)]
    batch = broadcast(state, node, [a[:-2], b[:-2]], before)
    if not source_of(state, left) and not source_of(state, right):  # attention
        state.role("heads", *batch)
        state.role("query_key", a[-1], *made_left)
        state.role("value", *made_right)
    else:
        state.role("experts", *batch)
    state.cost(node, *batch, *made_left, *made_right, a[-1])
    return [*batch, *made_left, *made_right]


def _read(state: Couplings, node: fx.Node, holders: list[tuple[fx.Node, int]]) -> None:
    """Record who sums over the coupled axes of (argument, axis): the last parameter among them, else the first."""
    for argument, axis in reversed(holders):
        source = source_of(state, argument)
        index = _index(state, source, state.axes(argument)[axis]) if source else None
        if source and index is not None:
            state.note_read(node, source, index)
            state.mask(node, argument, axis, state.axes(argument)[axis])
            return
    argument, axis = holders[0]
    state.mask(node, argument, axis, state.axes(argument)[axis])


def _make(state: Couplings, node: fx.Node, source: fx.Node, made: Axis) -> None:
    index = _index(state, source, made)
    if index is not None:
        state.make(node, source, index)


def _index(state: Couplings, source: fx.Node, axis: Axis) -> int | None:
    return next((index for index, other in enumerate(state.axes(source)) if other is axis), None)


def source_of(state: Couplings, node: fx.Node) -> fx.Node | None:
    """Return the parameter that a node gives, as it is or with its axes in another order."""
    while node not in state.parameters:
        if node.op != "call_function" or getattr(node.target, "_schema", None) is None:
            return None
        if node.target._schema.name not in _REORDER:  # type: ignore[union-attr]
            return None
        node = node.args[0]  # type: ignore[assignment]
    return node


def attention(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """softmax(query key') value, with query (..., L, E), key (..., S, E), value (..., S, V)."""
    query, key, value = (state.axes(arguments[name]) for name in ("query", "key", "value"))
    if not len(query) == len(key) == len(value):
        raise NoRule
    for mine, *others in zip(query[:-2], key[:-2], value[:-2], strict=True):
        for other in others:
            if len(other) == 1 < len(mine):  # one key-value head serves whatever query heads stay
                state.pin(node, other, "serves all heads")
                continue
            repeated = len(mine) != len(other) and arguments.get("enable_gqa")
            state.union(mine, np.repeat(other, len(mine) // len(other)) if repeated else other)
    state.union(query[-1], key[-1])
    state.union(key[-2], value[-2])
    state.mask(node, arguments["query"], len(query) - 1, query[-1])
    state.pin(node, key[-2], "takes a softmax over this axis")
    if arguments.get("attn_mask") is not None:
        scores = [*query[:-2], query[-2], key[-2]]
        broadcast(state, node, [scores, state.axes(arguments["attn_mask"])], tuple(map(len, scores)))
    state.role("heads", *query[:-2])
    state.role("query_key", query[-1])
    state.role("value", value[-1])
    state.cost(node, *query[:-1], key[-2], query[-1])
    state.cost(node, *query[:-1], key[-2], value[-1])
    return [*query[:-1], value[-1]]


def einsum(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Couple every axis with those of the same letter; letters that the result lacks are summed over."""
    operands = list(arguments["tensors"])
    inputs, output = letters_of(str(arguments["equation"]), [len(state.axes(o)) for o in operands])
    axis_of: dict[str, Axis] = {}
    for operand, letters in zip(operands, inputs, strict=True):
        if len(set(letters)) != len(letters):
            raise NoRule
        for letter, axis in zip(letters, state.axes(operand), strict=True):
            known = axis_of.setdefault(letter, axis)
            if len(known) == len(axis):
                state.union(known, axis)
            else:
                state.pin(node, min(known, axis, key=len), "stretches an axis of size 1")
                axis_of[letter] = max(known, axis, key=len)
    for letter in dict.fromkeys("".join(inputs)):
        if letter not in output:
            _summed(state, node, operands, inputs, letter, axis_of[letter])
        else:
            holders = [o for o, letters in zip(operands, inputs, strict=True) if letter in letters]
            sources = [source_of(state, operand) for operand in holders]
            if len(holders) > 1:
                state.role("experts" if any(sources) else "heads", axis_of[letter])
            for operand, letters in zip(operands, inputs, strict=True):
                if _alone(letter, inputs, letters) and (source := source_of(state, operand)):
                    _make(state, node, source, state.axes(operand)[letters.index(letter)])
    state.cost(node, *axis_of.values())
    return [axis_of[letter] for letter in output]


def _alone(letter: str, inputs: list[str], letters: str) -> bool:
    return sum(letter in other for other in inputs) == 1 and letter in letters


def _summed(
    state: Couplings, node: fx.Node, operands: list[fx.Node], inputs: list[str], letter: str, axis: Axis
) -> None:
    holders = [
        (o, letters.index(letter)) for o, letters in zip(operands, inputs, strict=True) if letter in letters
    ]
    if len(holders) == 1:
        state.pin(node, axis, "sums over this axis", "a layer with weights in its place")
        return
    _read(state, node, holders)


def letters_of(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the letters of every operand and of the result; an ellipsis becomes capital letters of its own.

    >>> letters_of("...ij,jk->...ik", [3, 2])
    (['Zij', 'jk'], 'Zik')
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if any(letter in equation for letter in "WXYZ"):
        raise NoRule
    extra = max(
        (rank - len(i.replace("...", "")) for i, rank in zip(inputs, ranks, strict=True) if "..." in i), default=0
    )
    spare = "WXYZ"[4 - extra :] if extra else ""
    full = [
        i.replace("...", spare[len(spare) - (rank - len(i.replace("...", ""))) :] if "..." in i else "")
        for i, rank in zip(inputs, ranks, strict=True)
    ]
    if arrow:
        return full, right.replace("...", spare)
    joined = "".join(full)
    return full, spare + "".join(sorted(c for c in set(joined) - set(spare) if joined.count(c) == 1))


def tensordot(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Sum over given axes of two tensors."""
    operands = [arguments["self"], arguments["other"]]
    axes = [state.axes(operand) for operand in operands]
    dims = [
        [axis_index(d, len(a)) for d in arguments[n]]
        for a, n in zip(axes, ("dims_self", "dims_other"), strict=True)
    ]
    letters = "abcdefghijklmnopq"
    first = [letters[index] for index in range(len(axes[0]))]
    second = [letters[len(first) + index] for index in range(len(axes[1]))]
    for mine, other in zip(*dims, strict=True):
        second[other] = first[mine]
    out = [c for i, c in enumerate(first) if i not in dims[0]] + [
        c for i, c in enumerate(second) if i not in dims[1]
    ]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(out)}"
    return einsum(state, node, {"equation": equation, "tensors": operands})


def grouped(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Multiply blocks of rows (T, K) by one matrix each of (E, K, N); where a block ends is computed."""
    given = list(arguments.values())
    rows, weights = state.axes(given[0]), state.axes(given[1])
    if len(rows) != 2 or len(weights) != 3:
        raise NoRule
    state.union(rows[1], weights[1])
    state.pin(node, weights[0], "reads this axis by number")
    source = source_of(state, given[1])
    if source:
        _make(state, node, source, weights[2])
    _read(state, node, [(given[0], 1), (given[1], 1)])
    state.cost(node, rows[0], *weights[1:])
    return [rows[0], weights[2]]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "linalg_matmul", "dot"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
    **dict.fromkeys(("_grouped_mm", "transformers::grouped_mm_fallback"), grouped),
    "tensordot": tensordot,
}
