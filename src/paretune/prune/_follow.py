"""Following: make the model's own forward work after a cut, by the numbers that its modules keep.

Code reshapes to `self.num_heads`, splits at `self.dim`: whole numbers in attributes that held an old width. Which
of them must change shows when the code is run: on fake tensors, which have shapes and no data, so that a trial
costs no arithmetic. That the numbers are the right ones shows in what the model computes, which the caller
compares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
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
from paretune.prune._capture import Capture, evaluating, in_words, quiet
from paretune.prune._couplings import Couplings
from paretune.prune._surgery import Keep, kept

_TRIALS = 48
"""Runs of the model's forward on fake tensors that a search may take; after that the graph form serves."""

_SETTLED = tuple(f"torch.nn.modules.{name}" for name in ("conv", "linear", "batchnorm", "normalization", "sparse"))
"""Modules whose numbers follow from the shapes of their own tensors (`_surgery`)."""

Lengths = dict[int, set[int]]
"""Old length of an axis -> the lengths that axes of it have after the cut."""


class _Number:
    """One attribute that holds an old width, and what it may have to be."""

    def __init__(self, path: str, module: nn.Module, name: str, options: list[Any]) -> None:
        self.path, self.module, self.name = path, module, name
        self.old, self.options = getattr(module, name), options

    def set(self, value: Any) -> None:
        setattr(self.module, self.name, value)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for attributes of equal modules, which are decided together."""
        return type(self.module), self.name, str(self.old), str(self.options)


def follow(
    pruned: nn.Module, captured: Capture, state: Couplings, keep: Keep, *, sparing: bool = False
) -> tuple[Attribute, ...]:
    """Set attributes of a cut model, in place, until its forward runs, and return them.

    Where it never runs a SurgeryError says what went wrong first, at which line.

    What a width may have become is read off the axes inside the module that holds it. Where it became one thing
    only, it is set; else the choices are tried where the forward fails, for all like modules at once.
    sparing: set only what the forward fails without; a number that merely equals a width (a stride, a count of
    layers) stays as it is.
    """
    numbers = _numbers(pruned, _lengths(captured, state, keep))
    for number in numbers:
        if len(number.options) == 1 and not sparing:
            number.set(number.options[0])
    trials = _Trials(pruned, captured.example)
    failed = trials.run()
    while failed is not None:
        chosen = _choose(trials, [n for n in numbers if n.path in failed.modules], numbers, failed)
        if chosen is None:
            for number in numbers:
                number.set(number.old)
            still = trials.run()
            if still is not None:
                raise SurgeryError(still.problem) from None
            return ()
        failed = chosen if chosen.modules else None
    changed = [n for n in numbers if getattr(n.module, n.name) != n.old]
    return tuple(Attribute(n.path, n.name, n.old, getattr(n.module, n.name)) for n in changed)


def _choose(trials: _Trials, here: list[_Number], numbers: list[_Number], failed: _Failure) -> _Failure | None:
    """Try the attributes of the modules that failed; return how far the first gain gets, None for no gain."""
    kinds = list(dict.fromkeys(n.kind for n in here))
    like = {kind: [n for n in numbers if n.kind == kind] for kind in kinds}
    before = {kind: getattr(like[kind][0].module, like[kind][0].name) for kind in kinds}
    for values in product(*([like[kind][0].old, *like[kind][0].options] for kind in kinds)):
        if trials.left <= 0:
            break
        for kind, value in zip(kinds, values, strict=True):
            for number in like[kind]:
                number.set(value)
        after = trials.run()
        if after is None:
            return _Failure(0, (), "")
        if after.reached > failed.reached:
            return after
    for kind in kinds:
        for number in like[kind]:
            number.set(before[kind])
    return None


class _Failure:
    def __init__(self, reached: int, modules: tuple[str, ...], problem: str) -> None:
        self.reached, self.modules, self.problem = reached, modules, problem


class _Trials:
    """Runs a model's forward on fake tensors and tells how far it got."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model, self.example, self.left = model, example, _TRIALS

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
        if path not in lengths or type(module).__module__ in _SETTLED:
            continue
        for name, value in vars(module).items():
            if not name.startswith("_") and (options := _options(value, lengths[path])):
                found.append(_Number(path, module, name, options))
    return found


def _options(value: Any, lengths: Lengths) -> list[Any]:
    """Return what a width, or a shape with one width in it, may have become."""
    if type(value) is int:
        return sorted(lengths.get(value, set()) - {value}) if value > 1 else []
    if type(value) not in (tuple, list) or not all(type(item) is int for item in value):
        return []
    places = [(index, new) for index, item in enumerate(value) for new in _options(item, lengths)]
    if len({index for index, _ in places}) != 1:
        return []
    return [type(value)([*value[:index], new, *value[index + 1 :]]) for index, new in places]
