"""Following: make the model's own forward work after a cut, by the numbers that its modules keep.

Code reshapes to `self.num_heads`, splits at `self.dim`: whole numbers in attributes that held an old width. Which
of them must change shows when the code is run: a small model as it is, a large one on fake tensors, which have
shapes and no data (0.2 s for 50 layers, and no arithmetic). That the numbers are the right ones shows in what the
model computes, which the caller compares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, product
from math import prod
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from paretune.cuts import Attribute
from paretune.data import call, map_tensors
from paretune.errors import SurgeryError
from paretune.prune._capture.capture import Capture, evaluating, in_words, quiet, user_line
from paretune.prune._capture.given import OF_EVERY_MODULE
from paretune.prune._couplings.couplings import Couplings, arguments
from paretune.prune._couplings.operators import operator_of
from paretune.prune._surgery.surgery import Keep, kept

_CHEAP = 1_000_000_000
"""Multiply-accumulates of a run up to which it takes less time than one on fake tensors."""

_TRIALS = 48
"""Runs of the model's forward that a search may take; after that the graph form serves."""

_MORE_TRIALS = 16
"""Runs that may look for another choice of numbers, where the first fails or computes something else."""

_SHAPES = 16
"""Choices for one attribute that holds several numbers; where there are more, all that can change do."""

_SETTLED = tuple(
    f"torch.nn.modules.{name}" for name in ("conv", "linear", "batchnorm", "normalization", "sparse", "rnn")
)
"""Modules whose numbers follow from the shapes of their own tensors (`surgery`), where they have any."""

"""What every module has."""

Lengths = dict[int, set[int]]
"""Old length of an axis -> the lengths that axes of it have after the cut."""


class _Number:
    """One attribute that holds an old width, and what it may have to be.

    open: whether other axes of that length stayed, so that it may be one of those (the size of an image).
    """

    def __init__(self, path: str, module: nn.Module, name: str, options: list[Any], open_: bool) -> None:
        self.path, self.module, self.name, self.open = path, module, name, open_
        self.old, self.options = getattr(module, name), options

    @property
    def value(self) -> Any:
        return getattr(self.module, self.name)

    def choices(self, old_first: bool) -> list[Any]:
        return [self.old, *self.options] if old_first else [*self.options, self.old]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for attributes of equal modules, which are decided together."""
        return type(self.module), self.name, str(self.old), str(self.options)


def follow(
    pruned: nn.Module, captured: Capture, state: Couplings, keep: Keep, macs: int
) -> Iterator[tuple[Attribute, ...]]:
    """Set attributes of a cut model, in place, so that its forward runs, and yield them; then the next choice.

    Where it never runs a SurgeryError says what went wrong first, at which line.

    What a width may have become is read off the axes inside the module that holds it. Where it became one thing
    only, and no axis of that length stayed, it is set; else the choices are tried where the forward fails, for all
    like modules at once. A number may merely equal a width (a count of rounds, as many heads as each is wide):
    where the model runs and computes something else, the caller asks for the next choice. That sets only what the
    forward fails without; those behind it differ from the first in a few numbers.
    macs: what one run of the forward costs, all samples together.
    """
    fake = macs > _CHEAP
    if rescaled := _rescaled(captured, state, keep):
        raise SurgeryError(rescaled)
    numbers = _numbers(pruned, _lengths(captured, state, keep))
    kinds = [[n for n in numbers if n.kind == kind] for kind in dict.fromkeys(n.kind for n in numbers)]
    found: list[list[Any]] = []
    problem = ""
    for sparing in (False, True) if kinds else (True,):
        for like in kinds:
            sure = len(like[0].options) == 1 and not sparing and not any(number.open for number in like)
            _set(like, like[0].options[0] if sure else like[0].old)
        trials = _Trials(pruned, captured.example, fake, _MORE_TRIALS if sparing else _TRIALS)
        problem = _settle(trials, kinds, sparing)
        values = [like[0].value for like in kinds]
        if not problem and values not in found:
            found.append(values)
            yield _changed(numbers)
    if not found:
        raise SurgeryError(problem)
    trials = _Trials(pruned, captured.example, fake, _MORE_TRIALS)
    for other in _others(kinds, found[0]):
        if trials.left <= 0:
            return
        for like, value in zip(kinds, other, strict=True):
            _set(like, value)
        if other not in found and trials.run() is None:
            yield _changed(numbers)


def _rescaled(captured: Capture, state: Couplings, keep: Keep) -> str:
    """Return where attention would be scaled by another width; empty where it is not.

    With few tokens, or alike ones, outputs may hardly show it.
    """
    for node in captured.program.graph.nodes:
        if operator_of(node) != "scaled_dot_product_attention":
            continue
        given = arguments(node)
        if given["scale"] is None and not kept(keep, state.axes(given["query"])[-1]).all():
            what = "attention without a scale divides by the root of the width that is left"
            return f"it computes another function than the masked model: {what} (at {user_line(node)})"
    return ""


def _set(like: list[_Number], value: Any) -> None:
    for number in like:
        setattr(number.module, number.name, value)


def _changed(numbers: list[_Number]) -> tuple[Attribute, ...]:
    return tuple(Attribute(n.path, n.name, n.old, n.value) for n in numbers if n.value != n.old)


def _others(kinds: list[list[_Number]], first: list[Any]) -> Iterator[list[Any]]:
    """Yield values that differ from the first ones in one kind of number, then in more of one class."""
    free = [[v for v in like[0].choices(True) if v != value] for like, value in zip(kinds, first, strict=True)]
    members = [[i for i, like in enumerate(kinds) if type(like[0].module) is c] for c in _classes(kinds)]
    for count in range(1, 1 + max(map(len, members), default=0)):
        for places in (chosen for mine in members for chosen in combinations(mine, count)):
            for values in product(*(free[place] for place in places)):
                other = dict(zip(places, values, strict=True))
                yield [other.get(place, value) for place, value in enumerate(first)]


def _classes(kinds: list[list[_Number]]) -> list[type]:
    return list(dict.fromkeys(type(like[0].module) for like in kinds))


def _settle(trials: _Trials, kinds: list[list[_Number]], sparing: bool) -> str:
    """Set numbers in the modules that fail until the forward runs; return what goes wrong where it never does.

    sparing: old numbers are tried before new ones.
    """
    first = failed = trials.run()
    while failed is not None:
        here = [like for like in kinds if any(n.path in failed.modules for n in like)]
        chosen = _choose(trials, here, failed, sparing)
        if chosen is None:
            assert first is not None
            return first.problem
        failed = chosen if chosen.modules else None
    return ""


def _choose(trials: _Trials, kinds: list[list[_Number]], failed: _Failure, sparing: bool) -> _Failure | None:
    """Try the attributes of the modules that failed; return how far the first gain gets, None for no gain."""
    before = [like[0].value for like in kinds]
    for values in product(*(like[0].choices(sparing) for like in kinds)):
        if trials.left <= 0:
            break
        for like, value in zip(kinds, values, strict=True):
            _set(like, value)
        after = trials.run()
        if after is None:
            return _Failure(0, (), "")
        if after.reached > failed.reached:
            return after
    for like, value in zip(kinds, before, strict=True):
        _set(like, value)
    return None


class _Failure:
    def __init__(self, reached: int, modules: tuple[str, ...], problem: str) -> None:
        self.reached, self.modules, self.problem = reached, modules, problem


class _Trials:
    """Runs a model's forward and tells how far it got."""

    def __init__(self, model: nn.Module, example: Any, fake: bool, left: int) -> None:
        self.model, self.example, self.fake, self.left = model, example, fake, left

    def run(self) -> _Failure | None:
        """Return None where the forward runs, else how many modules it finished and those it failed inside of."""
        self.left -= 1
        with _progress(self.model) as (finished, open_modules), evaluating(self.model), quiet():
            try:
                self._call()
            except Exception as error:
                return _Failure(len(finished), tuple(open_modules), in_words(error))
        return None

    def _call(self) -> None:
        if not self.fake:
            call(self.model, self.example)
            return
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                call(self.model, map_tensors(mode.from_tensor, self.example))
        except (DataDependentOutputException, DynamicOutputShapeException):  # control flow that looks at values
            call(self.model, self.example)


@contextmanager
def _progress(model: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    finished: list[str] = []
    entered: list[str] = []
    paths = {module: path for path, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        entered.append(paths.get(module, ""))

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        finished.append(entered.pop())

    hooks = [torch.nn.modules.module.register_module_forward_pre_hook(enter)]
    hooks.append(torch.nn.modules.module.register_module_forward_hook(leave))
    try:
        yield finished, entered
    finally:
        for hook in hooks:
            hook.remove()


def _lengths(captured: Capture, state: Couplings, keep: Keep) -> dict[str, Lengths]:
    """Return, for every module by path, what became of the lengths of the axes of tensors inside it."""
    found: dict[str, Lengths] = defaultdict(lambda: defaultdict(set))
    counts: dict[int, int] = {}
    for node in captured.program.graph.nodes:
        if node.op != "call_function":
            continue
        pairs = {
            (len(axis), counts.setdefault(id(axis), int(kept(keep, axis).sum())))
            for value in (state.values.get(n) for n in (node, *node.all_input_nodes))
            for axis in _flat(value)
        }
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            for old, new in pairs:
                found[path][old].add(new)
    return found


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [axis for item in value for axis in _flat(item)]
    return [] if value is None else [value]


def _numbers(model: nn.Module, lengths: dict[str, Lengths]) -> list[_Number]:
    found = []
    for path, module in model.named_modules():
        own = any(tensor is not None for tensor in (*module._parameters.values(), *module._buffers.values()))
        if path not in lengths or (own and type(module).__module__ in _SETTLED):
            continue
        for name, value in vars(module).items():
            if name not in OF_EVERY_MODULE and (options := _options(value, lengths[path])):
                sizes = [value] if type(value) is int else value
                stays = any(size in lengths[path].get(size, ()) for size in sizes)
                found.append(_Number(path, module, name, options, stays))
    return found


def _options(value: Any, lengths: Lengths) -> list[Any]:
    """Return what a width, or a shape with widths in it, may have become, all that can have changed first."""
    if type(value) is int:
        return sorted(lengths.get(value, set()) - {value}) if value > 1 else []
    if type(value) not in (tuple, list) or not all(type(item) is int for item in value):
        return []
    places = [[*_options(item, lengths), item] for item in value]
    if prod(map(len, places)) > _SHAPES:
        places = [place[:1] for place in places]
    return [type(value)(shape) for shape in product(*places) if list(shape) != list(value)]
