"""What reads what while a model runs: which module hands its output to which other, and to no one else.

A chain of modules may be folded only where nothing beside the next one reads what is between them. Every function
that takes a tensor is seen while the model runs once (`TorchFunctionMode`), so that a skip connection in the
model's code is seen as well as a module.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from paretune._skip import Skip
from paretune.data import call

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardshrink,
)
FUNCTIONS = (
    *("relu", "relu_", "relu6", "gelu", "silu", "hardswish", "leaky_relu", "prelu", "tanh", "sigmoid", "elu"),
    *("selu", "celu", "mish", "softplus", "softsign", "hardtanh", "hardsigmoid", "hardshrink"),
)
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, Skip)
"""Modules that hand their input on in eval mode."""


@dataclass
class Call:
    """One call of a module that takes a tensor and returns one."""

    reads: int
    """The number of the tensor that it reads."""
    gives: int
    shape: tuple[int, ...]
    """Of what it reads."""
    gave: tuple[int, ...]
    """The shape of what it gives."""


@dataclass
class Flow:
    """The calls of modules that run once, and who reads their outputs."""

    calls: dict[str, Call] = field(default_factory=dict)
    """By module, in the order in which they run."""
    times: Counter[str] = field(default_factory=Counter)
    """How often each module ran."""
    readers: Counter[int] = field(default_factory=Counter)
    """Functions that read each tensor, and one more where the model returns it."""
    same: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Modules that hand each tensor on as it is."""
    functions: list[tuple[str, str]] = field(default_factory=list)
    """Activation functions that are called in code: (the module in whose forward, the function)."""

    def after(self, name: str) -> str | None:
        """Return the one module that reads what a module gives, if nothing else does."""
        gives = self.calls[name].gives
        if self.readers[gives] != 1:
            return None
        return next((other for other, found in self.calls.items() if found.reads == gives), None)

    def before(self, name: str) -> str | None:
        """Return the module whose output a module reads, and nothing else does."""
        source = self.source(name)
        return source if source is not None and self.after(source) == name else None

    def source(self, name: str) -> str | None:
        """Return the module whose output a module reads, whoever else does."""
        reads = self.calls[name].reads
        return next((other for other, found in self.calls.items() if found.gives == reads), None)

    def join(self, first: str, second: str) -> None:
        """Let `first` give what `second` gave, and `second` be gone; what hands on between is behind both."""
        between = self.calls[first].gives
        self.calls[first].gives = self.calls.pop(second).gives
        self.same[self.calls[first].gives] += self.same.pop(between, [])


class _Watch(TorchFunctionMode):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.inside: list[tuple[str, nn.Module]] = []
        self.alive: list[torch.Tensor] = []
        """Every tensor that was seen: one that is freed would lend its number to another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if _tensors(output):
            for tensor in _tensors((args, kwargs)):
                self.flow.readers[self.number(tensor)] += 1
            where, module = self.inside[-1] if self.inside else ("", None)
            function = getattr(func, "__name__", "").partition(".")[0]  # of a graph: relu.default
            if function in FUNCTIONS and not isinstance(module, ACTIVATIONS):
                self.flow.functions.append((where, function))
        return output

    def number(self, tensor: torch.Tensor) -> int:
        self.alive.append(tensor)
        return id(tensor)


def flow_of(model: nn.Module, inputs: Any) -> Flow:
    """Run the model once, in eval mode already and without in-place activations, and return what reads what."""
    flow = Flow()
    watch = _Watch(flow)

    def entering(name: str) -> Callable[..., None]:
        return lambda module, args: watch.inside.append((name, module))

    def leaving(name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            watch.inside.pop()
            flow.times[name] += 1
            given = [*args, *kwargs.values()]
            alone = len(given) == 1 and isinstance(given[0], torch.Tensor)
            if alone and isinstance(output, torch.Tensor):
                reads, gives = watch.number(given[0]), watch.number(output)
                if not isinstance(module, SAME):
                    flow.calls[name] = Call(reads, gives, tuple(given[0].shape), tuple(output.shape))
                elif reads == gives:
                    flow.same[reads].append(name)

        return leave

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(module.children()):
                hooks.callback(module.register_forward_pre_hook(entering(name)).remove)
                hooks.callback(module.register_forward_hook(leaving(name), with_kwargs=True).remove)
            elif name:
                hooks.callback(module.register_forward_pre_hook(entering(name)).remove)
                hooks.callback(module.register_forward_hook(lambda *_: _none(watch.inside.pop())).remove)
        with _dropouts_off(model), watch:
            output = call(model, inputs)
    for tensor in _tensors(output):
        flow.readers[watch.number(tensor)] += 1
    flow.calls = {name: found for name, found in flow.calls.items() if flow.times[name] == 1}
    return flow


def _none(_: Any) -> None:
    """Return nothing: what a hook returns takes the place of the output."""


def _dropouts_off(model: nn.Module) -> ExitStack:
    """Let dropouts return their input itself, as `Identity` does, rather than call a function that does."""
    undo = ExitStack()
    for module in model.modules():
        if isinstance(module, SAME[1:6]):
            vars(module)["forward"] = _itself
            undo.callback(vars(module).pop, "forward")
    return undo


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
