"""Residual blocks: which modules of a model add something to their input and hand it on.

The model is run once on the example, in eval mode, and every operator is followed (`TorchDispatchMode`). For each
module call the trace knows which tensors still are its first argument: views and copies of it, an activation on
it, a sum of it with something computed from it and, behind such a sum, a norm (the post-norm transformers). A
module whose first output is one of them, its elements in their old order, is a residual block: without its branch
it would hand its input on.

A run is read and not the captured graph, because it has to be known which tensor is a module's first argument and
what the code behind it does with everything that it returns; the graph keeps neither.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from paretune._skip import Skip, bind, positional_arguments
from paretune.cuts import Removed
from paretune.data import call
from paretune.measure._cost import macs_by_module, without_fused_layers
from paretune.prune._capture.capture import evaluating, line_of_frames

_VIEWS = {"_reshape_alias", "_unsafe_view", "view"}
_MOVES = _VIEWS | {
    "constant_pad_nd", "expand", "flip", "permute", "roll", "slice", "squeeze", "t", "transpose", "unsqueeze",
}  # fmt: skip
_COPIES = {"_to_copy", "alias", "clone", "detach", "lift_fresh"}
_ACTIVATIONS = {
    "celu", "clamp", "clamp_max", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "mish", "relu", "selu", "sigmoid", "silu", "softplus", "tanh", "threshold",
}  # fmt: skip
_REMEDY = "the block as a module of its own, whose first argument is what it adds to, and whose output is the sum"

Move = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Block:
    """A residual block."""

    name: str
    removed: Removed
    """How it is removed: what its caller gets in its place."""
    outer: bool
    """True where it is inside no other residual block."""
    inner: bool
    """True where no other residual block is inside it."""
    macs: int
    """Multiply-accumulates of it for one sample."""


@dataclass(frozen=True)
class Residual:
    """Every residual block of a model, in the order in which they run, and what is none and why."""

    blocks: tuple[Block, ...]
    unprunable: tuple[tuple[str, str, str], ...]
    """(module, reason, what would make it prunable)."""
    macs: int
    """Multiply-accumulates of the model for one sample."""


@dataclass(frozen=True)
class _Path:
    """How a tensor still is the first argument of a call."""

    moves: tuple[Move, ...] = ()
    """What moved its elements, in order."""
    sums: tuple[tuple[str, ...], ...] = ()
    """For every sum with something computed from it, the modules that were running."""


_NOT, _NOTHING = _Path(), Removed("")


@dataclass
class _Call:
    """A call of a module."""

    name: str
    bit: int
    """What its first argument, and all that is computed from it, is marked with."""
    given: dict[str, Any]
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Of its first argument and its first output."""
    path: _Path = _NOT
    removed: Removed = _NOTHING
    problem: str = ""
    """Why it cannot be removed although it is residual."""


def find_blocks(model: nn.Module, example: Any) -> Residual:
    """Run the model and return its residual blocks; the model is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs, on the model's device. A module
    without multiply-accumulates (a sum as a module, response normalisation) is no block.
    """
    trace = _Trace()
    with evaluating(model), without_fused_layers(), trace.watching(model):
        call(model, example)
    costs = macs_by_module(model, example)
    residual = {
        made.name: made
        for made in sorted(trace.calls, key=lambda made: made.bit)
        if made.name and made.path.sums and costs.get(made.name) and _in_order(made)
    }
    names = _blocks(dict(model.named_modules()), residual)
    outer, inner = set(_outermost(names)), names - {a for a in names for b in names if b.startswith(a + ".")}
    reasons = {name: _problem(model, trace, residual[name]) for name in residual if name in names}
    found = [
        Block(name, residual[name].removed, name in outer, name in inner, costs[name])
        for name, (reason, _) in reasons.items()
        if not reason
    ]
    refused = [(name, reason, remedy) for name, (reason, remedy) in reasons.items() if reason]
    refused += _relatives(model, trace, outer)
    if isinstance(model, fx.GraphModule):
        remedy = "prune.blocks before what rewrote it (prune.channels)"
        refused.append((type(model).__name__, "it is a rewritten graph, which calls no blocks", remedy))
    else:
        refused += _loose_sums(model, trace, names | {name for name, _, _ in refused})
    return Residual(tuple(found), tuple(refused), costs[""])


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every operator of one run, and every module that is called meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[_Call] = []
        self.calls: list[_Call] = []
        """Every finished call whose first argument and first output are tensors."""
        self.times: Counter[str] = Counter()
        self.sums: list[tuple[tuple[str, ...], str]] = []
        """(running modules, user's line) of every sum of a tensor with something computed from it."""
        self._bits = 0
        self._carried: MutableMapping[torch.Tensor, dict[int, _Path]] = _weak()
        """Tensor -> {bit of a call: path}, for the calls whose first argument it still is."""
        self._from: MutableMapping[torch.Tensor, int] = _weak()
        """Tensor -> the bits of every tensor that it was computed from, and its own."""
        self._same: MutableMapping[torch.Tensor, int] = _weak()
        """Tensor -> its own bit, and those of the tensors that it is a view or copy of."""
        self._extra: MutableMapping[torch.Tensor, tuple[_Call, int]] = _weak()
        """Tensor that a call returned beside the first -> (call, its place)."""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Follow what runs inside."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name, module), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module) -> Any:
        positional = positional_arguments(module)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = bind(positional, args, kwargs)
            made = _Call(name, self._new_bit(), given)
            self.running.append(made)
            self.times[name] += 1
            first = next(iter(given.values()), None)
            if isinstance(first, torch.Tensor):
                self._from[first] = self._from.get(first, 0) | made.bit
                self._carried.setdefault(first, {})[made.bit] = _Path()

        return hook

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        made = self.running.pop()
        origin = next(iter(made.given.values()), None)
        leaves, spec = _pytree.tree_flatten(output, is_leaf=lambda item: _handed_on(item, made.given) is not None)
        first = leaves[0] if leaves else None
        if isinstance(origin, torch.Tensor) and isinstance(first, torch.Tensor):
            made.shapes = tuple(origin.shape), tuple(first.shape)
            made.path = self._carried.get(first, {}).get(made.bit, _NOT)
            if made.path.sums:
                self._describe(made, leaves, spec)
            made.given = {}  # which would keep every activation
            self.calls.append(made)

    def _describe(self, made: _Call, leaves: list[Any], spec: _pytree.TreeSpec) -> None:
        """Say what stands in for the call's output: its first argument, and what else it only handed on."""
        try:
            structure = "" if spec.is_leaf() else _pytree.treespec_dumps(spec)
        except NotImplementedError as error:  # a named tuple
            made.problem = f"what it returns cannot be written down: {error}"
            return
        items: list[str | None] = [next(iter(made.given))]
        for place, leaf in enumerate(leaves[1:], start=1):
            items.append(_handed_on(leaf, made.given))
            if items[-1] is None and isinstance(leaf, torch.Tensor):
                self._extra[leaf] = made, place
            elif items[-1] is None and leaf is not None:
                made.problem = f"it returns a {type(leaf).__name__} that it makes itself"
        made.removed = Removed(made.name, tuple(items), structure)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note what its outputs come from."""
        out = func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs))
        for tensor in inputs:
            if tensor in self._extra:
                made, place = self._extra[tensor]
                made.problem = f"the code behind it reads item {place} of what it returns, which it makes itself"
        source = self._sources(inputs)
        carried, same = self._carry(func, args, kwargs or {})
        for place, tensor in enumerate(_tensors(out)):
            bit = self._new_bit()
            self._from[tensor] = source | bit
            self._same[tensor] = bit | (same if place == 0 else 0)
            self._carried[tensor] = carried if place == 0 else {}
        return out

    def _carry(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[int, _Path], int]:
        """Return of which calls an operator's first output is the first argument, and which tensors it copies."""
        kind = func._schema.name.partition("::")[2].rstrip("_")
        first = args[0] if args else None
        if not isinstance(first, torch.Tensor):
            return {}, 0
        if kind in ("add", "sub", "addcmul"):
            return self._carry_sum(first, args[1:], swaps=kind == "add" and kwargs.get("alpha", 1) == 1)
        paths, same = self._active(first), self._same.get(first, 0)
        if kind in _MOVES:
            move = _move(func, kind, args[1:], kwargs)
            return {bit: replace(path, moves=(*path.moves, move)) for bit, path in paths.items()}, same
        if kind in _COPIES or kind in _ACTIVATIONS:
            return paths, same
        return {bit: path for bit, path in paths.items() if path.sums and "norm" in kind}, 0

    def _carry_sum(
        self, first: torch.Tensor, added: tuple[Any, ...], *, swaps: bool
    ) -> tuple[dict[int, _Path], int]:
        """Follow a sum; swaps: what is added may be what is handed on, and the first what is added to it."""
        others = _tensors(added)
        if not others:  # sum([a, b]) begins with 0 + a
            return (self._active(first), self._same.get(first, 0)) if added[0] == 0 else ({}, 0)
        found: dict[int, _Path] = {}
        running = tuple(made.name for made in self.running)
        sides = [(first, others)] + [(others[0], [first])] * swaps
        for tensor, terms in sides:
            source = self._sources(terms) if any(term.shape == tensor.shape for term in terms) else 0
            if source & self._same.get(tensor, 0):
                self.sums.append((running, _user_line()))
            for bit, path in self._active(tensor).items():
                both = any(bit in self._active(term) for term in terms)  # twice the argument is not the argument
                if not both:
                    found[bit] = replace(path, sums=(*path.sums, running)) if source & bit else path
        return found, 0

    def _active(self, tensor: torch.Tensor) -> dict[int, _Path]:
        """Return the running calls whose first argument a tensor still is."""
        paths = self._carried.get(tensor, {})
        return {made.bit: paths[made.bit] for made in self.running if made.bit in paths}

    def _sources(self, tensors: Iterable[torch.Tensor]) -> int:
        source = 0
        for tensor in tensors:
            source |= self._from.get(tensor, 0)
        return source

    def _new_bit(self) -> int:
        self._bits += 1
        return 1 << self._bits


def _weak() -> MutableMapping[torch.Tensor, Any]:
    """Return a dictionary that keeps no tensor alive."""
    return WeakIdKeyDictionary()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _handed_on(item: Any, given: dict[str, Any]) -> str | None:
    """Return the argument that a returned item is: the object itself, or one equal number or tuple of numbers."""
    if item is None or isinstance(item, bool | float | str):
        return None
    if _is_size(item):
        equal = [name for name, value in given.items() if type(value) is type(item) and value == item]
        return equal[0] if len(equal) == 1 else None
    return next((name for name, value in given.items() if value is item), None)


def _is_size(item: Any) -> bool:
    items = item if isinstance(item, tuple | list) and item else (item,)
    return all(type(part) is int for part in items)


def _move(func: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Move:
    if kind in _VIEWS:  # the places may lie in memory otherwise than the tensor did
        return lambda places: places.reshape(args[0])
    return lambda places: func(places, *args, **kwargs)


def _user_line() -> str:
    frames = [(f.filename, str(f.lineno), f.name, f.line or "") for f in traceback.extract_stack()]
    return line_of_frames(frames)


def _in_order(made: _Call) -> bool:
    """Tell whether every element of the output is at the place that it had in the input."""
    before, after = made.shapes
    if before != after or not made.path.moves:
        return before == after
    start = torch.arange(1, 1 + torch.Size(before).numel()).reshape(before)  # 0 is what padding brings
    places = start
    for move in made.path.moves:
        places = move(places)
    return torch.equal(places, start)


def _blocks(modules: dict[str, nn.Module], residual: dict[str, _Call]) -> set[str]:
    """Return the residual modules that are blocks: stacks of blocks are none, and neither is the whole network."""
    names: set[str] = set()
    for name in sorted(residual, key=lambda name: -name.count(".")):
        inside = _outermost({other for other in names if other.startswith(name + ".")})
        if not _is_stack(modules, name, residual[name].path, inside):
            names.add(name)
    while len(outer := _outermost(names)) == 1 and len(_outermost(names - set(outer))) > 1:
        names -= set(outer)
    return names


def _is_stack(modules: dict[str, nn.Module], name: str, path: _Path, inside: list[str]) -> bool:
    """Tell whether a module only runs the blocks inside it, one after the other.

    A block of unlike halves (attention, feed-forward) is none: in a stack a class comes again, or it is an
    nn.Sequential.
    """
    halves = [[other for other in inside if other in running] for running in path.sums]
    if not all(halves):
        return False
    passed = {half[0] for half in halves}
    classes = {type(modules[other]) for other in passed}
    return type(modules[name]) is nn.Sequential or len(passed) == 1 or len(classes) < len(passed)


def _outermost(names: set[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(other + ".") for other in names)]


def _problem(model: nn.Module, trace: _Trace, made: _Call) -> tuple[str, str]:
    """Return (reason, remedy) why a residual block cannot go, empty where it can."""
    if (times := trace.times[made.name]) > 1:
        return f"it runs {times} times, and would be removed from every one", "a module for every time it runs"
    module = model.get_submodule(made.name)
    homes = [child for parent in model.modules() for child in parent._modules.values() if child is module]
    if len(homes) > 1:
        return "it is registered in the model under two names", "one name for it"
    return made.problem, "an output of the tensor alone, or of a tuple of it and of what the block was given"


def _relatives(model: nn.Module, trace: _Trace, outer: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the modules of the blocks' classes that are no blocks: most often those that change the shape."""
    modules = dict(model.named_modules())
    classes = {type(modules[name]) for name in outer}
    shapes = {made.name: made.shapes for made in trace.calls}
    for name, module in modules.items():
        if type(module) not in classes or name in outer or any(name.startswith(other + ".") for other in outer):
            continue
        before, after = shapes.get(name, ((), ()))
        if not trace.times[name]:
            yield name, "it does not run on the example", "an example on which it runs"
        elif before != after:
            yield name, f"it turns {before} into {after}", "an output of the shape of its input"
        else:
            yield name, "what it adds to is not its input unchanged", "a sum with its first argument"


def _loose_sums(model: nn.Module, trace: _Trace, known: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the modules in whose own code something residual is added, save what is inside the known ones."""
    seen = set()
    for running, line in trace.sums:
        weights = any(True for _ in model.get_submodule(running[-1]).parameters())
        if weights and not known.intersection(running) and (running[-1], line) not in seen:
            seen.add((running[-1], line))
            name = running[-1] or type(model).__name__
            yield name, f"a residual sum in its own forward, not in a module ({line})", _REMEDY


@contextmanager
def skipped(model: nn.Module, blocks: Iterable[Block]) -> Iterator[None]:
    """Run a model without some blocks, none of which is inside another, and put them back."""
    homes = []
    try:
        for block in blocks:
            parent, _, child = block.name.rpartition(".")
            home, module = model.get_submodule(parent), model.get_submodule(block.name)
            setattr(home, child, Skip(module, block.removed.items, block.removed.structure))
            homes.append((home, child, module))
        yield
    finally:
        for home, child, module in homes:
            setattr(home, child, module)
