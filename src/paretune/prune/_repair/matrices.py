"""Layers as matrices: what a layer's weights multiply as rows, the weights as a matrix, what it gives as rows.

A convolution of any rank, a linear layer, and a product of an activation with a parameter (matmul, einsum) all
compute y = W x + c, block by block where there are groups or a batch of matrices. Here each is brought into
that form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from paretune.prune._couplings.couplings import Couplings, Slice, axis_index, shape_of
from paretune.prune._couplings.couplings import arguments as named
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.rules.contraction import letters_of, source_of
from paretune.prune._evidence.collect import unfolded

_SPARE = "abcdefghij"


class NoMatrixError(Exception):
    """A layer that is no such product; the text says why."""


@dataclass(frozen=True)
class Matrix:
    """How one node looks as y = W x + c, with (blocks, out, in) weights."""

    node: fx.Node
    source: fx.Node
    """What it reads."""
    bias: fx.Node | None
    """The vector that is added to every row, if the node has one."""
    weight: Callable[[Tensor], Tensor]
    """A tensor shaped like the parameter -> (blocks, out, in): a rearrangement, of weights, masks or places."""
    inputs: Callable[[Mapping[str, Any], Tensor, Tensor | None], Tensor]
    """(the node's arguments, what it reads, which rows or None for all) -> (blocks, rows, in)."""
    outputs: Callable[[Tensor], Tensor]
    """What it gives -> (blocks, rows, out)."""
    channels: tuple[int, ...]
    """The axes of what it gives on which blocks and outputs lie, in this order."""


def only_use(state: Couplings, graph: fx.Graph, tensor: str) -> fx.Node:
    """Return the node that gives a tensor which is used once."""
    nodes = [
        node for node, name in state.parameters.items() if name == tensor and node.graph is graph and node.users
    ]
    if sum(len(node.users) for node in nodes) != 1:
        raise NoMatrixError("its weights are used more than once, and have to serve every use")
    return nodes[0]


def matrix_of(state: Couplings, read: Slice) -> Matrix:
    """Return a layer that reads channels as a matrix, or raise NoMatrixError."""
    operator, given = operator_of(read.node), named(read.node)
    if operator.startswith("conv"):
        return _convolution(read, given)
    if operator == "linear":
        rows = _SPARE[: len(shape_of(given["input"])) - 1]
        words = [rows + "k", "mk"], rows + "m"
        return _product(state, read, [given["input"], given["weight"]], *words, bias=given.get("bias"))
    if operator in ("matmul", "linalg_matmul", "mm", "bmm", "mv"):
        operands = [value for value in given.values() if isinstance(value, fx.Node)][:2]
        return _product(state, read, operands, *_matmul(*(len(shape_of(o)) for o in operands)))
    if operator == "addmm" and given["beta"] == given["alpha"] == 1:
        operands = [given["mat1"], given["mat2"]]
        bias = given["self"] if len(shape_of(given["self"])) == 1 else None
        return _product(state, read, operands, ["nk", "km"], "nm", bias=bias)
    if operator == "einsum" and len(given["tensors"]) == 2:
        operands = list(given["tensors"])
        words = letters_of(str(given["equation"]), [len(shape_of(o)) for o in operands])
        return _product(state, read, operands, *words)
    if operator == "tensordot":
        operands = [given["self"], given["other"]]
        return _product(state, read, operands, *_tensordot(operands, given))
    raise NoMatrixError(f"{operator} does more with its weights than multiply what it reads")


def _matmul(left: int, right: int) -> tuple[list[str], str]:
    """Return the letters of a matrix product of two ranks.

    >>> _matmul(3, 2)
    (['ank', 'km'], 'anm')
    """
    batch = _SPARE[: max(left - 2, right - 2, 0)]
    words = [
        batch[len(batch) - max(rank - 2, 0) :] + (matrix if rank > 1 else "k")
        for rank, matrix in ((left, "nk"), (right, "km"))
    ]
    return words, batch + "n" * (left > 1) + "m" * (right > 1)


def _tensordot(operands: list[fx.Node], given: Mapping[str, Any]) -> tuple[list[str], str]:
    ranks = [len(shape_of(operand)) for operand in operands]
    letters = "abcdefghijklmnopqrstuvwxyz"
    first, second = list(letters[: ranks[0]]), list(letters[ranks[0] : sum(ranks)])
    summed = []
    for mine, other in zip(given["dims_self"], given["dims_other"], strict=True):
        second[axis_index(other, ranks[1])] = first[axis_index(mine, ranks[0])]
        summed.append(first[axis_index(mine, ranks[0])])
    return ["".join(first), "".join(second)], "".join(x for x in first + second if x not in summed)


def _product(
    state: Couplings, read: Slice, operands: list[fx.Node], words: list[str], result: str, bias: Any = None
) -> Matrix:
    """Return an einsum of two operands, one of them a parameter, perhaps with its axes in another order."""
    sources = [source_of(state, operand) for operand in operands]
    mine = next((i for i, s in enumerate(sources) if s is not None and state.parameters[s] == read.tensor), None)
    if mine is None:
        raise NoMatrixError(f"its weights are computed from '{read.tensor}'")
    w, x = words[mine], words[1 - mine]
    parameter, source = operands[mine], operands[1 - mine]
    sizes = dict(zip(x, shape_of(source), strict=True))
    both = [letter for letter in w if letter in x and letter in result]
    summed = [letter for letter in w if letter in x and letter not in result]
    made = [letter for letter in w if letter not in x]
    rows = [letter for letter in x if letter not in both + summed]
    if (
        any(sizes.get(letter, size) != size for letter, size in zip(w, shape_of(parameter), strict=True))
        or any(letter not in result for letter in rows + made)
        or not summed
    ):
        raise NoMatrixError("its weights are broadcast, or summed over an axis of their own")

    def arranged(tensor: Tensor, word: str, *parts: list[str]) -> Tensor:
        order = [word.index(letter) for part in parts for letter in part]
        sizes = [math.prod(tensor.shape[word.index(letter)] for letter in part) for part in parts]
        return tensor.permute(order).reshape(sizes)

    def weight(tensor: Tensor) -> Tensor:
        return arranged(_reordered(state, parameter, tensor), w, both, made, summed)

    def inputs(_: Mapping[str, Any], value: Tensor, which: Tensor | None) -> Tensor:
        found = arranged(value, x, both, rows, summed)
        return found if which is None else found[:, which]

    def outputs(value: Tensor) -> Tensor:
        return arranged(value, result, both, rows, made)

    channels = tuple(result.index(letter) for letter in both + made)
    vector = bias if channels == (len(result) - 1,) else None
    return Matrix(read.node, source, vector, weight, inputs, outputs, channels)


def _reordered(state: Couplings, operand: fx.Node, tensor: Tensor) -> Tensor:
    """Do to a tensor what the graph does to the parameter before it is multiplied."""
    if operand in state.parameters:
        return tensor
    before, *rest = operand.args
    assert isinstance(before, fx.Node)
    return operand.target(_reordered(state, before, tensor), *rest, **operand.kwargs)  # type: ignore[no-any-return, operator]


def _convolution(read: Slice, given: Mapping[str, Any]) -> Matrix:
    """Return a convolution, transposed or not: sums run over channels and, inside them, over the kernel."""
    groups = int(given["groups"])
    transposed = operator_of(read.node).startswith("conv_transpose")
    rank = len(shape_of(given["weight"])) - 2
    lone = len(shape_of(given["input"])) == rank + 1  # no batch

    def weight(tensor: Tensor) -> Tensor:
        tensor = tensor.reshape(groups, tensor.shape[0] // groups, tensor.shape[1], -1)
        tensor = tensor.transpose(1, 2) if transposed else tensor
        return tensor.flatten(2)

    def inputs(given: Mapping[str, Any], value: Tensor, which: Tensor | None) -> Tensor:
        chunks, start = [], 0
        for chunk in unfolded(read.node, given, value[None] if lone else value, 1):
            if which is not None:
                mine = which[(which >= start) & (which < start + len(chunk))] - start
                start, chunk = start + len(chunk), chunk[mine]
            chunks.append(chunk)
        found = torch.cat(chunks)
        return found.reshape(len(found), groups, -1).transpose(0, 1)

    def outputs(value: Tensor) -> Tensor:
        value = (value[None] if lone else value).movedim(1, -1)
        return value.reshape(-1, groups, value.shape[-1] // groups).transpose(0, 1)

    return Matrix(read.node, given["input"], given.get("bias"), weight, inputs, outputs, (0 if lone else 1,))
