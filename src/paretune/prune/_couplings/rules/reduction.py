"""Operators that reduce over axes, or normalise along them without parameters.

A mean over space leaves the channels alone. Statistics of a norm that is written out (a mean that is subtracted, a
mean square whose root divides, a vector norm that divides, a softmax) are taken over what stays, as in layer norm.
So are a mean, sum, maximum or minimum over channels that a layer with weights reads as a feature (spatial
attention: Woo et al., "CBAM", ECCV 2018, arXiv:1807.06521). Where one reaches the output, or is mixed with other
values, without a weight in between, nothing could make up for a channel that goes: such an axis cannot be cut.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from paretune.prune._couplings.couplings import Axes, Couplings, NoRule, Rule, axis_index
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.units import Axis


def reduce(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """Drop the reduced axes, or keep them with size 1."""
    axes = state.axes(next(iter(arguments.values())))
    dims = _dims(arguments, len(axes))
    source = next(iter(arguments.values()))
    for dim in dims:
        if operator_of(node) == "sum" and state.vanishes(axes[dim]):
            state.mask(node, source, dim, axes[dim])
        elif is_statistic(node):
            state.mask(node, source, dim, axes[dim], statistic=True)
            state.role("normalised", axes[dim])
        elif _is_summary(node, state):
            state.mask(node, source, dim, axes[dim], statistic=True)
        else:
            state.pin(node, axes[dim], "reduces over this axis", "a layer with weights that reads what it gives")
    out: list[Axis] = []
    for dim, axis in enumerate(axes):
        if dim not in dims:
            out.append(axis)
        elif arguments.get("keepdim"):
            out.append(state.fixed(node, 1))
    sample = node.meta["val"]
    return out if isinstance(sample, torch.Tensor) else [list(out) for _ in sample]


def along(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """Keep all axes; those that the operator works along are pinned."""
    axes = state.axes(next(iter(arguments.values())))
    for dim in _dims(arguments, len(axes)):
        state.pin(node, axes[dim], "works along this axis", "another axis")
    sample = node.meta["val"]
    parts = [sample] if isinstance(sample, torch.Tensor) else list(sample)
    if any(len(part.shape) != len(axes) for part in parts):
        raise NoRule
    sizes = [int(size) for size in parts[0].shape]
    out = [a if len(a) == size else state.fixed(node, size) for a, size in zip(axes, sizes, strict=True)]
    return out if isinstance(sample, torch.Tensor) else [list(out) for _ in parts]


_MOMENTS = ("mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm")
_PASSING = (
    "clamp",
    "clamp_min",
    "expand",
    "expand_as",
    "add",
    "clone",
    "maximum",
    "to",
    "_to_copy",
    "type_as",
    "pow",
)
_ROOTS = ("rsqrt", "sqrt")
_POWERS = ("pow", "square", "mul", "abs", "sub")
_LONGEST, _WIDEST = 6, 12
"""Operators from a moment to where it is used; and from where it is used back to what it was taken of."""


def is_statistic(node: fx.Node) -> bool:
    """Tell whether a reduction is a statistic of a norm: it only shifts or divides what it was taken of."""
    name = operator_of(node)
    return name in _MOMENTS and bool(node.users) and all(_normalises(user, node, node, 0) for user in node.users)


_SUMMARIES = ("mean", "sum", "amax", "amin", "max", "min")
_JOINING = ("cat", "concat", "concatenate", "stack")
_WEIGHTED = ("linear", "conv", "matmul", "mm", "bmm", "mv", "addmm", "baddbmm", "einsum", "tensordot")


def _is_summary(node: fx.Node, state: Couplings) -> bool:
    """Tell whether a reduction makes a feature by itself, which layers with weights read and nothing else.

    With an axis, max and min give positions too, which would be others after a cut: nobody may use them.
    """
    if operator_of(node) not in _SUMMARIES or not node.users:
        return False
    positions = [] if isinstance(node.meta["val"], torch.Tensor) else [u for u in node.users if u.args[1] != 0]
    return not any(user.users for user in positions) and all(_reads(user, state) for user in node.users)


def _reads(user: fx.Node, state: Couplings) -> bool:
    """Tell whether a node has weights, or all have that read what it makes of features, each by itself."""
    if operator_of(user).startswith(_WEIGHTED) and not state.parameters.keys().isdisjoint(user.all_input_nodes):
        return True
    passes = len(user.all_input_nodes) == 1 or operator_of(user) in _JOINING
    return user.op != "output" and passes and all(_reads(after, state) for after in user.users)


def _normalises(user: fx.Node, value: fx.Node, moment: fx.Node, depth: int) -> bool:
    kind, name = operator_of(user), operator_of(moment)
    if depth > _LONGEST or not user.users:
        return False
    if kind in _ROOTS or (kind == "pow" and user.args[1] in (0.5, -0.5)):
        squares = name != "sum" or operator_of(_uncast(moment.args[0])) in _POWERS
        return squares and all(_scales(after, user, moment, depth + 1) for after in user.users)
    if kind == "div" and user.args[1] is value:
        # a mean square without its root is no norm; a mean that divides what it was taken of is one (ConvNeXt V2)
        return user.args[0] is moment.args[0] if name in ("mean", "sum") else _comes_from(user.args[0], moment)
    if kind == "sub" and user.args[1] is value:
        if _uncast(user.args[0]) is not _uncast(moment.args[0]):  # it shifts something else
            return False
        if name in ("var_mean", "std_mean"):
            return depth == 1 and bool(value.args[1] == 1)
        return name == "mean" and depth == 0
    if user.target is operator.getitem or kind in _PASSING:
        return all(_normalises(after, user, moment, depth + 1) for after in user.users)
    return False


def _scales(user: fx.Node, root: fx.Node, moment: fx.Node, depth: int) -> bool:
    """Tell whether the root of a moment ends in a factor, or divisor, of what the moment was taken of."""
    kind = operator_of(user)
    if depth > _LONGEST or not user.users:
        return False
    if kind in ("mul", "div") and any(_comes_from(other, moment) for other in user.args if other is not root):
        return kind == "mul" or user.args[1] is root
    if kind in (*_PASSING, "mul", "reciprocal"):  # with a weight, say, before it meets the values
        return all(_scales(after, user, moment, depth + 1) for after in user.users)
    return False


def _comes_from(node: Any, moment: fx.Node) -> bool:
    """Tell whether a value is what a moment was taken of, but for shifts, weights and types."""
    return not _behind(node, ("sub", "mul", "add", "div")).isdisjoint(_behind(moment.args[0], _POWERS))


def _behind(node: Any, operators: tuple[str, ...]) -> set[fx.Node]:
    """Return a value and what it was computed from by some operators alone."""
    seen: set[fx.Node] = set()
    pending = [node]
    while pending and len(seen) < _WIDEST:
        value = _uncast(pending.pop())
        if isinstance(value, fx.Node) and value not in seen:
            seen.add(value)
            pending += value.all_input_nodes if operator_of(value) in operators else []
    return seen


def _uncast(node: Any) -> Any:
    while operator_of(node) in ("to", "_to_copy", "type_as", "clone", "contiguous"):
        node = node.args[0]
    return node


def softmax(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Keep all axes; the sum runs over what stays."""
    source = next(iter(arguments.values()))
    axes = state.axes(source)
    dim = axis_index(arguments["dim"], len(axes))
    state.mask(node, source, dim, axes[dim], statistic=True)
    return [*axes[:dim], state.vanish(axes[dim]), *axes[dim + 1 :]] if (axes[dim] >= 0).any() else axes


def topk(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> list[Axes]:
    """Choose positions of an axis: what it gives are values and positions, of those that stay."""
    axes = list(state.axes(arguments["self"]))
    dim = axis_index(arguments["dim"], len(axes))
    if (axes[dim] >= 0).any():
        state.mask(node, arguments["self"], dim, axes[dim], statistic=True)
        state.minima.append((axes[dim], int(arguments["k"])))
        state.pointers[node] = axes[dim]
        state.role("experts", axes[dim])
    chosen = [*axes[:dim], state.fixed(node, int(arguments["k"])), *axes[dim + 1 :]]
    return [chosen, list(chosen)]


def triangle(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Keep all axes; the last two are told apart by position."""
    axes = state.axes(arguments["self"])
    for axis in axes[-2:]:
        state.pin(node, axis, "tells positions of this axis apart by their number")
    return axes


def transform(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Fourier transforms: axes that are transformed are pinned, the others pass."""
    axes, shape = state.axes(arguments["self"]), [int(size) for size in node.meta["val"].shape]
    dims = arguments.get("dim", -1)
    if dims is None:  # the last two of a transform of two, all of one of n, or as many as it has sizes
        every, sizes = operator_of(node).endswith("n"), arguments.get("s")
        count = len(axes) if every and sizes is None else len(sizes) if sizes is not None else 2
        dims = range(len(axes) - count, len(axes))
    last = [dims] if isinstance(dims, int) else dims
    out = list(axes)
    for dim in (axis_index(d, len(axes)) for d in last):
        state.pin(node, axes[dim], "transforms this axis")
        out[dim] = state.fixed(node, shape[dim])
    return out


def _dims(arguments: dict[str, Any], rank: int) -> set[int]:
    dims = arguments.get("dim")
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return set(range(rank))
    return {axis_index(dim, rank) for dim in (dims if isinstance(dims, list | tuple) else [dims])}


def glu(state: Couplings, node: fx.Node, arguments: dict[str, Any]) -> Axes:
    """Gate one half of an axis by the other: both halves lose the same positions."""
    axes = list(state.axes(arguments["self"]))
    dim = axis_index(arguments["dim"], len(axes))
    first, second = axes[dim].reshape(2, -1)
    state.union(first, second)
    axes[dim] = first
    return axes


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "std",
            "var",
            "std_mean",
            "var_mean",
            "any",
            "all",
            "prod",
            "argmax",
            "argmin",
            "norm",
            "linalg_vector_norm",
            "logsumexp",
            "nansum",
            "median",
        ),
        reduce,
    ),
    **dict.fromkeys(
        ("log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "argsort"), along
    ),
    **dict.fromkeys(("softmax", "_softmax"), softmax),
    "topk": topk,
    **dict.fromkeys(("tril", "triu"), triangle),
    **dict.fromkeys(
        [f"fft_{kind}{rank}" for kind in ("fft", "ifft", "rfft", "irfft") for rank in ("", "2", "n")], transform
    ),
    "glu": glu,
}
