"""The captured graph as a module that runs: over the model's own parameters, at any batch size.

`torch.export` on static shapes writes the batch into every view as a number. The model is therefore captured at
two batch sizes: where a number differs between the two graphs it follows the batch, by so much a sample, and is
computed from the input's batch when the module runs. A model that counts its batch in another way (a Python loop
over the samples) runs at the captured batch only.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves, tree_unflatten

from paretune.graphs import device_of, is_name, module_over
from paretune.prune._capture.capture import Capture, another_batch
from paretune.prune._capture.unread import remove_unread


@dataclass(frozen=True)
class PerSample:
    """A number in the graph that follows the batch: `fixed + each * batch`."""

    fixed: int
    each: int

    def at(self, batch: int) -> int:
        """Return the number at a batch size."""
        return self.fixed + self.each * batch


Numbers = dict[fx.Node, Any]
"""The arguments of nodes that hold a number per sample: (args, kwargs), with `PerSample` in its place."""


def numbers_per_sample(model: nn.Module, captured: Capture) -> Numbers | None:
    """Find the numbers that follow the batch; None where the graph runs at the captured batch only."""
    if captured.batch is None:
        return {}
    other = another_batch(model, captured)
    if other is None:
        return None
    program, batch = other
    mine, theirs = list(captured.program.graph.nodes), list(program.graph.nodes)
    if len(mine) != len(theirs):
        return None
    found: Numbers = {}
    for a, b in zip(mine, theirs, strict=True):
        if a.op != b.op or (a.op == "call_function" and a.target != b.target):
            return None
        if a.op != "call_function":
            continue
        try:
            both = _compare((a.args, dict(a.kwargs)), (b.args, dict(b.kwargs)), captured.batch, batch)
        except ValueError:
            return None
        if _holds(both):
            found[a] = both
    return found


def _compare(a: Any, b: Any, batch: int, other: int) -> Any:
    """Return the arguments of two captures as one, with numbers that differ as `PerSample`."""
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        return a
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            raise ValueError
        return [_compare(x, y, batch, other) for x, y in zip(a, b, strict=True)]
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: _compare(value, b[key], batch, other) for key, value in a.items()}
    if type(a) is not type(b):
        raise ValueError
    if isinstance(a, int) and a != b:
        each, rest = divmod(b - a, other - batch)
        if rest or isinstance(a, bool):
            raise ValueError
        return PerSample(a - each * batch, each)
    if a != b and not (a != a and b != b):
        raise ValueError
    return a


def _holds(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    return any(map(_holds, value)) if isinstance(value, list | tuple) else isinstance(value, PerSample)


Arguments = Callable[[fx.Node], "tuple[Any, dict[str, Any]]"]
"""Given a node of the captured graph, its arguments, `PerSample` among them."""


def runnable(model: nn.Module, captured: Capture, numbers: Numbers | None) -> fx.GraphModule:
    """Return the captured graph as a module over the model's own parameter objects, called as the model is.

    Node names are those of the captured graph, so that `torch.fx.Interpreter` can look at any of them; parameters
    are `get_attr` nodes. numbers: as `numbers_per_sample` found them.
    """
    builder = Builder(model, captured)
    for node in captured.program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = (numbers or {}).get(node, (node.args, node.kwargs))
            builder.add(node, node.target, args, kwargs)
    return builder.finish()


class Builder:
    """Copies a captured graph node by node into one that runs; what a caller adds may differ from the original."""

    def __init__(self, model: nn.Module, captured: Capture, *, inputs: bool = True) -> None:
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, Any] = {}
        self._captured = captured
        self._model = model
        self._batch: fx.Node | None = None
        self._asked: dict[str, fx.Node] = {}
        self._first: fx.Node | None = None
        self._weight: fx.Node | None = None
        self._tensors: dict[str, Any] = {}
        self._inputs(inputs)

    def add(self, node: fx.Node, target: Any, args: Any, kwargs: Mapping[str, Any]) -> fx.Node:
        """Append a node that stands for `node`; arguments may be nodes of the captured graph or of this one."""
        given = self.translate(args), self.translate(dict(kwargs))
        copy = self.graph.create_node("call_function", target, tuple(given[0]), given[1], name=node.name)
        copy.meta = dict(node.meta)
        self.copies[node] = copy
        return copy

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Append a node that stands for none of the captured graph's."""
        return self._insert(target, tuple(self.translate(args)), self.translate(kwargs))

    def _insert(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        """Append a node under a name that no captured node can have."""
        name = f"inserted.{len(self.graph.nodes)}"
        return self.graph.create_node("call_function", target, args, kwargs or {}, name=name)

    def constant(self, name: str, value: torch.Tensor) -> fx.Node:
        """Append a tensor that belongs to the graph itself, where the model's tensors are."""
        self._tensors[name] = value.to(device_of(self._model))
        return self.graph.get_attr(name)

    def translate(self, value: Any) -> Any:
        """Return arguments with every captured node replaced by its copy, and every number per sample computed."""
        if isinstance(value, fx.Node):
            return self.copies.get(value, value)
        if isinstance(value, PerSample):
            return self._number(value)
        if isinstance(value, list | tuple):
            return [self.translate(item) for item in value]
        return {key: self.translate(item) for key, item in value.items()} if isinstance(value, dict) else value

    def _number(self, value: PerSample) -> fx.Node:
        assert self._batch is not None, "a number per sample in a graph without a batch"
        product = self._batch if value.each == 1 else self._insert(operator.mul, (self._batch, value.each))
        return self._insert(operator.add, (product, value.fixed)) if value.fixed else product

    def portable(self, value: Any) -> Any:
        """Return a device or dtype as the first input or weight has it when the module runs; all else as it is.

        A dtype that the weights did not have when the model was captured is one that the code asks for.
        """
        if isinstance(value, torch.device) and self._first is not None:
            return self._ask(self._first, "device")
        if isinstance(value, torch.dtype) and self._weight is not None and value == self._weight.meta["val"].dtype:
            return self._ask(self._weight, "dtype")
        return value

    def _ask(self, node: fx.Node, name: str) -> fx.Node:
        if name not in self._asked:
            self._asked[name] = self._insert(getattr, (node, name))
        return self._asked[name]

    def _inputs(self, wanted: bool) -> None:
        """Add a placeholder for every argument of forward, and a `get_attr` for every tensor of the model."""
        program = self._captured.program
        users: list[fx.Node] = []
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node in placeholders:
            if specs[node.name].kind == InputKind.USER_INPUT:
                users.append(node)
        if wanted:
            self._arguments(users)
        for node in placeholders:
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT or not node.users:
                continue
            assert spec.target is not None
            self._tensors[spec.target] = self._own(spec.target)
            copy = self.graph.create_node("get_attr", spec.target, name=node.name)
            copy.meta = dict(node.meta)
            self.copies[node] = copy
            if self._weight is None and spec.kind == InputKind.PARAMETER and copy.meta["val"].is_floating_point():
                self._weight = copy
        for node in program.graph.nodes:
            if node.op == "get_attr":
                self._tensors[node.target] = getattr(program.graph_module, node.target)
                self.copies[node] = self.graph.get_attr(node.target)

    def _own(self, name: str) -> Any:
        """Return the model's own tensor object, or the constant that the capture found."""
        owner, _, leaf = name.rpartition(".")
        try:
            return getattr(self._model.get_submodule(owner), leaf)
        except AttributeError:
            return self._captured.program.constants[name]

    def _arguments(self, users: list[fx.Node]) -> None:
        leaves = iter(users)
        for name, value in named_arguments(self._model, self._captured.example):
            default = () if value is not None else (None,)
            argument = self.graph.create_node("placeholder", name, default, name=name)
            self._unpack(value, argument, leaves)
        for user in users:
            copy = self.copies[user]
            if self._first is None and isinstance(user.meta.get("val"), torch.Tensor):
                self._first, copy.meta = copy, dict(user.meta)
                if self._captured.batch:
                    self._batch = self._insert(torch.ops.aten.sym_size.int, (copy, 0))

    def _unpack(self, value: Any, node: fx.Node, leaves: Any) -> None:
        if isinstance(value, Mapping):
            for key in value:
                self._unpack(value[key], self._insert(operator.getitem, (node, key)), leaves)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._unpack(item, self._insert(operator.getitem, (node, index)), leaves)
        else:
            user = next(leaves)
            self.copies[user] = node
            if node.op == "call_function":
                node.meta = dict(user.meta)

    def output(self) -> Any:
        """Return what the model returns, as the argument of an output node."""
        program = self._captured.program
        output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
        specs = program.graph_signature.output_specs
        flat = [
            self.translate(value)
            for value, spec in zip(output.args[0], specs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        leaves = [_Leaf(value) for value in flat]
        return self._structure(tree_unflatten(leaves, program.call_spec.out_spec))

    def _structure(self, value: Any) -> Any:
        if isinstance(value, _Leaf):
            return value.value
        if type(value) in (list, tuple):
            return type(value)(self._structure(item) for item in value)
        if type(value) is dict:
            return {key: self._structure(item) for key, item in value.items()}
        if isinstance(value, Mapping):  # an ordered dict, a Hugging Face ModelOutput: built by keyword
            items = {key: self._structure(item) for key, item in value.items()}
            named = all(isinstance(key, str) and is_name(key) for key in items)
            return self._insert(type(value), (), items) if named else self._insert(type(value), (items,))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._insert(type(value), tuple(self._structure(item) for item in value))
        if is_dataclass(value):
            items = {field.name: self._structure(getattr(value, field.name)) for field in fields(value)}
            return self._insert(type(value), (), items)
        return tuple(item.value for item in tree_leaves(value, is_leaf=lambda x: isinstance(x, _Leaf)))

    def finish(self, output: Any = None) -> fx.GraphModule:
        """Close the graph and return its module, in eval mode, over the tensors that it reads, which are shared.

        output: what it returns, where that is not what the model returns.
        """
        self.graph.output(self.output() if output is None else output)
        remove_unread(self.graph, self._tensors)
        read = {node.target for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        own = {name: value for name, value in self._tensors.items() if name in read}
        return module_over(own, self.graph, saved=self._model.state_dict())


@dataclass(frozen=True, eq=False)
class _Leaf:
    value: Any


def flattened(captured: Capture) -> list[str]:
    """Return the types in what a model returns that a graph cannot build: it gives a tuple of their tensors."""
    spec = captured.program.call_spec.out_spec
    pending, found = [tree_unflatten([_Leaf(None)] * spec.num_leaves, spec)], []
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif is_dataclass(value) and not isinstance(value, _Leaf):
            pending += [getattr(value, field.name) for field in fields(value)]
        elif value is not None and not isinstance(value, _Leaf):
            found.append(type(value).__name__)
    return found


def named_arguments(model: nn.Module, example: Any) -> list[tuple[str, Any]]:
    """Return (name of forward's parameter, value) for an example, in the order of the call.

    >>> named_arguments(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    [('input', tensor([[0., 0.]]))]
    """
    if isinstance(example, Mapping):
        return [(str(name), value) for name, value in example.items()]
    values = list(example) if isinstance(example, list | tuple) else [example]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(model.forward).parameters.items() if p.kind in kinds]
    names += [f"input_{index}" for index in range(len(names), len(values))]
    return list(zip(names, values, strict=False))
