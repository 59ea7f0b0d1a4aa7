"""Couplings: which slices of which parameters must be cut together, read off the captured graph.

The graph is walked once, in order. Every tensor gets one array of unit ids per axis; every operator has one rule
(`rules`) that says how the axes of its output follow from those of its inputs, and which units its inputs
couple. What the walk leaves behind is all that selection and surgery need: the units of every parameter axis,
which axes make channels and which read them, and what every operator costs.

An operator without a rule pins every axis that goes in and comes out, and is named with the user's line; nothing
is guessed. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, has the same aim
with one rule per module type.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.export.graph_signature import InputKind

from paretune.prune._capture.capture import Capture, user_line
from paretune.prune._couplings.permutations import Permutation, permutation_chains
from paretune.prune._couplings.units import Axis, Units

Axes = list[Axis]
Value = Any
"""Axes of a tensor, a list of such for an operator with several outputs, or None for what is no tensor."""
Rule = Callable[["Couplings", fx.Node, dict[str, Any]], Value]
"""(couplings, node, arguments by the names of the operator's schema) -> the axes of the output."""


class NoRule(Exception):
    """A rule met a case that it does not cover: the node is treated as an unknown operator."""


@dataclass(frozen=True)
class Slice:
    """One axis of one parameter in a role: it makes channels, or it reads them."""

    tensor: str
    axis: int
    units: NDArray[np.int64]
    """(length,), or (blocks, length) where each block of axis 0 reads other units (grouped convolution)."""
    node: fx.Node


@dataclass(frozen=True)
class Masking:
    """Where a node reads channels: with these positions of an argument masked it computes what a cut gives."""

    node: fx.Node
    argument: fx.Node
    axis: int
    units: NDArray[np.int64]
    """(length,), or (blocks, length) where each block of axis 0 of the argument reads other units."""
    statistic: bool = False
    """False: masked positions count as zero. True: the node takes statistics over the axis, without them."""


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one node: `scale` times the kept lengths of all `axes`, for one sample."""

    scale: float
    axes: tuple[Axis, ...]
    node: fx.Node


@dataclass
class Couplings:
    """The facts that the walk collects; rules call its methods."""

    units: Units = field(default_factory=Units)
    tensors: dict[str, Axes] = field(default_factory=dict)
    """Units of every axis of every parameter and buffer, by its first name."""
    constants: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    """What placeholders that are a buffer or a constant hold."""
    values: dict[fx.Node, Value] = field(default_factory=dict)
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    """Placeholders that are a parameter or buffer as it is."""
    makes: list[Slice] = field(default_factory=list)
    reads: list[Slice] = field(default_factory=list)
    balances: list[NDArray[np.int64]] = field(default_factory=list)
    """(blocks, n): every row must keep equally many units."""
    preferences: list[NDArray[np.int64]] = field(default_factory=list)
    """The same, where only the user's own code needs it (chunk): given up where it would couple more."""
    maskings: list[Masking] = field(default_factory=list)
    permutations: dict[fx.Node, Permutation] = field(default_factory=dict)
    """Last nodes of chains of views that only permute one axis."""
    costs: list[Cost] = field(default_factory=list)
    roles: list[tuple[str, Axis]] = field(default_factory=list)
    """What axes are for the model, where an operator tells: ("heads", axis), ("query_key", axis), ..."""
    pointers: dict[fx.Node, Axis] = field(default_factory=dict)
    """Tensors of whole numbers that are positions on an axis: what topk chose of it."""
    minima: list[tuple[Axis, int]] = field(default_factory=list)
    """Axes of which at least so many positions must stay."""
    batch: int = 1
    _vanishing: dict[int, Axis] = field(default_factory=dict)
    _never_empty: list[Axis] | None = None

    def never_empty(self) -> list[Axis]:
        """Return the sets of units of which one must stay, once the walk is done: those along every axis.

        An axis is one of a tensor, or of any value on the way: a tensor may hold the channels of several that are
        taken apart later. One with a fixed position cannot be emptied.
        """
        if self._never_empty is None:
            everything = [*self.tensors.values(), *(every_axis(value) for value in self.values.values())]
            each = {id(axis): axis for axes in everything for axis in axes}
            found: dict[bytes, Axis] = {}
            for axis in each.values():
                if len(axis) and not (axis < 0).any():
                    for column in self.units.factors(axis).T:
                        real = np.unique(column[column >= 0])
                        found[real.tobytes()] = real
            self._never_empty = [units for units in found.values() if len(units)]
        return self._never_empty

    def vanish(self, axis: Axis) -> Axis:
        """Return an axis at whose removed positions the masked model is zero: summing over it leaves them out."""
        fresh = axis.copy()
        self._vanishing[id(fresh)] = fresh
        return fresh

    def vanishes(self, axis: Axis) -> bool:
        """Tell whether a masked model is zero at the removed positions of an axis (of this very array)."""
        return id(axis) in self._vanishing

    def axes(self, argument: Any) -> Axes:
        """Return the axes of a tensor argument."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, list) or (value and not isinstance(value[0], np.ndarray)):
            raise NoRule
        return value

    def union(self, a: Axis, b: Axis) -> None:
        """Couple two axes position by position."""
        if len(a) != len(b):
            raise NoRule
        self.units.union(a, b)

    def fixed(self, node: fx.Node, size: int, what: str = "", remedy: str = "") -> Axis:
        """Return an axis that nothing can shorten, because `node` made it."""
        return np.full(size, -1 - self.why(node, what or "fixes this size", remedy))

    def pin(self, node: fx.Node, axis: Axis, what: str, remedy: str = "") -> None:
        """Pin an axis, because of what `node` does with it."""
        if (np.asarray(axis) >= 0).any():
            self.units.pin(axis, self.why(node, what, remedy))

    def why(self, node: fx.Node, what: str, remedy: str = "") -> int:
        """Return the index of a reason: `what` the node does, its name and the user's line."""
        line = user_line(node)
        text = f"{_name(node)} {what}" + (f" (at {line})" if line else "")
        return self.units.reason(text, remedy or "nothing: its size is part of the model's function")

    def make(self, node: fx.Node, weight: fx.Node, axis: int) -> None:
        """Record that an axis of a weight makes channels; a buffer (a fixed filter) is none."""
        if weight in self.parameters and weight not in self.constants:
            self.makes.append(Slice(self.parameters[weight], axis, self.axes(weight)[axis], node))

    def read(self, node: fx.Node, weight: fx.Node, axis: int, units: NDArray[np.int64]) -> None:
        """Record that an axis of a weight reads channels."""
        self.mask(node, weight, axis, units)
        self.note_read(node, weight, axis, units)

    def note_read(self, node: fx.Node, weight: fx.Node, axis: int, units: Axis | None = None) -> None:
        """Record that an axis of a parameter reads channels, as `prune.scores` and repair look for."""
        if weight in self.parameters:
            units = self.axes(weight)[axis] if units is None else units
            self.reads.append(Slice(self.parameters[weight], axis, units, node))

    def mask(self, node: fx.Node, argument: fx.Node, axis: int, units: Axis, *, statistic: bool = False) -> None:
        """Record that a node sums over an axis of an argument, or takes statistics over it."""
        if (units >= 0).any():
            self.maskings.append(Masking(node, argument, axis, units, statistic))

    def role(self, name: str, *axes: Axis) -> None:
        """Record what axes are for the model: heads, query_key, value, embedding, hidden."""
        self.roles += [(name, axis) for axis in axes if (axis >= 0).any()]

    def open(self, size: int) -> Axis:
        """Return an axis of a size that is a number in the graph: any of its positions may go."""
        return self.units.new(size)

    def cost(self, node: fx.Node, *axes: Axis) -> None:
        """Record a node's multiply-accumulates: the product of these axes' lengths, divided by the batch."""
        free = tuple(axis for axis in axes if (axis >= 0).any())
        scale = float(np.prod([float(len(axis)) for axis in axes if not (axis >= 0).any()])) / self.batch
        self.costs.append(Cost(scale, free, node))


def couple(captured: Capture, rules: Callable[[Any], Rule | None]) -> Couplings:
    """Walk a captured graph; `rules` finds the rule of a node's target.

    Where the model was captured in train mode too, that graph's couplings are added; costs are those of eval mode.
    """
    state = Couplings()
    _walk(state, captured.program, rules)
    if captured.training is not None:
        costs, state.costs = state.costs, []
        _walk(state, captured.training, rules)
        state.costs = costs
    return state


def _walk(state: Couplings, program: torch.export.ExportedProgram, rules: Callable[[Any], Rule | None]) -> None:
    _placeholders(state, program)
    chains, inside = permutation_chains(program.graph)
    state.permutations |= chains
    for node in program.graph.nodes:
        if node in inside:
            state.values[node] = None
        elif node in chains:
            source, dim, positions = chains[node]
            axes = state.values[source]
            state.values[node] = [axis[positions] if i == dim else axis for i, axis in enumerate(axes)]
        elif node.op == "call_function":
            state.values[node] = _apply(state, node, rules(node.target))
        elif node.op == "output":
            why = state.units.reason(
                "it is the model's output", "nothing: the output's shape is what callers rely on"
            )
            for argument in node.all_input_nodes:
                pointed = [state.pointers[argument]] if argument in state.pointers else []
                for axis in [*every_axis(state.values[argument]), *pointed]:
                    state.units.pin(axis, why)


def _placeholders(state: Couplings, program: torch.export.ExportedProgram) -> None:
    """Give every parameter and buffer fresh units, tied ones the same, and every input fixed axes."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    single = state.units.reason("its size is 1", "nothing: a size of 1 cannot be halved")
    given = state.units.reason("it is the model's input", "nothing: the input's shape is given")
    known: dict[int, str] = {}
    batches = []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec, sample = specs.get(node.name), node.meta.get("val")
        if not isinstance(sample, torch.Tensor):
            state.values[node] = None
            continue
        if spec is not None and spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target:
            tensor = _lookup(program, spec.target)
            name = known.setdefault(id(tensor), spec.target)
            if name not in state.tensors:
                state.tensors[name] = [
                    state.units.new(size) if size > 1 else np.full(size, -1 - single) for size in sample.shape
                ]
            state.values[node], state.parameters[node] = state.tensors[name], name
            if spec.kind == InputKind.BUFFER:
                state.constants[node] = tensor
            continue
        if spec is not None and spec.kind == InputKind.CONSTANT_TENSOR and spec.target:
            state.constants[node] = program.constants[spec.target]
            state.values[node] = [
                state.open(size) if size > 1 else np.full(1, -1 - single) for size in sample.shape
            ]
            continue
        state.values[node] = [np.full(size, -1 - given) for size in sample.shape]
        if spec is not None and spec.kind == InputKind.USER_INPUT and sample.dim():
            batches.append(int(sample.shape[0]))
    state.batch = max(1, batches[0]) if batches else 1


def _lookup(program: torch.export.ExportedProgram, name: str) -> Any:
    return program.state_dict[name] if name in program.state_dict else program.constants.get(name)


def _apply(state: Couplings, node: fx.Node, rule: Rule | None) -> Value:
    if node.target is operator.getitem:
        value, index = state.values[node.args[0]], node.args[1]  # type: ignore[index]
        if index == 1 and node.args[0] in state.pointers:
            state.pointers[node] = state.pointers[node.args[0]]  # type: ignore[index]
        return value[index] if isinstance(value, list) and isinstance(index, int) else None
    if node not in state.pointers:
        _follow_pointers(state, node)
    if not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
        return None
    if rule is not None:
        try:
            return rule(state, node, arguments(node))
        except NoRule:
            pass  # a form that the rule does not cover: what it stated so far only couples more
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            return _unknown(
                state, node, f"is beyond its rule, a mistake of paretune ({type(error).__name__}: {error})"
            )
    return _unknown(state, node)


_REARRANGING = (
    *("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "transpose", "permute", "t"),
    *("contiguous", "clone", "to", "_to_copy", "slice", "select", "detach", "alias", "repeat"),
)


_READING = ("index", "index_select", "one_hot", "gather", "take_along_dim", "scatter", "scatter_add")


def _follow_pointers(state: Couplings, node: fx.Node) -> None:
    """Carry positions that topk gave through views; anything computed from them pins what they point at."""
    pointers = [source for source in node.all_input_nodes if source in state.pointers]
    if not pointers:
        return
    name = getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::").rstrip("_")
    if name in _REARRANGING and node.args[0] in pointers:
        state.pointers[node] = state.pointers[node.args[0]]  # type: ignore[index]
    elif name not in _READING and node.target is not operator.getitem:
        for source in pointers:
            state.pin(node, state.pointers[source], "computes with the numbers of these positions")


def _unknown(
    state: Couplings, node: fx.Node, what: str = "has no rule for how its axes follow from its inputs"
) -> Value:
    """Pin whatever goes in, and fix whatever comes out."""
    why = state.why(node, what, "an operator with a rule in its place")
    for argument in node.all_input_nodes:
        for axis in every_axis(state.values.get(argument)):
            state.units.pin(axis, why)
    return _unshortened(state, node, why)


def _unshortened(state: Couplings, node: fx.Node, why: int | None = None) -> Value:
    """Return fixed axes for every tensor that a node gives."""
    why = state.why(node, "fixes this size") if why is None else why

    def axes(sample: Any) -> Value:
        if isinstance(sample, torch.Tensor):
            return [np.full(int(size), -1 - why) for size in sample.shape]
        return [axes(item) for item in sample] if isinstance(sample, list | tuple) else None

    return axes(node.meta.get("val"))


def every_axis(value: Value) -> list[Axis]:
    """Return the axes of a tensor, or of all tensors that an operator gives."""
    if isinstance(value, np.ndarray):
        return [value]
    return [axis for item in value for axis in every_axis(item)] if isinstance(value, list) else []


def names_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a node's operator as its schema has them, by name."""
    return {argument.name: argument for argument in node.target._schema.arguments}  # type: ignore[union-attr]


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names of its operator's schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip([argument.name for argument in schema], node.args, strict=False)) | node.kwargs
    return {
        argument.name: given.get(argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in schema
    }


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the tensor that a node gives."""
    return tuple(int(size) for size in node.meta["val"].shape)


def axis_index(index: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return index + rank if index < 0 else index


def all_fixed(axes: Sequence[Axis]) -> bool:
    """Tell whether no position of these axes can ever be removed."""
    return all(bool((axis < 0).all()) for axis in axes)


def _name(node: fx.Node) -> str:
    target = node.target
    return f"{getattr(target, '__name__', target)} '{node.name}'"
