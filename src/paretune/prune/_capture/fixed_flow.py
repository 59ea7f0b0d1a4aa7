"""Control flow that depends on values, fixed: the model is captured along the path that the example takes.

`if x.isnan().any():`, `assert (ids < n).all()` and `int(lengths.max())` read numbers out of tensors, which the
exporter refuses. Here the model is run once and what it reads is written down; while it is exported, each place
reads what was written down. That is safe where the reads do not depend on the inputs: they must be the same for
other inputs of the same shapes, made so that signs, sizes, order and masks differ.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paretune.data import call, map_tensors

OTHERS = 12
"""Other inputs that are tried."""

_READING = {
    *("__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__"),
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
}
_TORCH = str(Path(torch.__file__).parent) + os.sep  # torchvision is another package


@dataclass(frozen=True)
class Read:
    """One value that a model's code took out of a tensor, and the line that did."""

    file: str
    line: int
    value: Any

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}:{self.line}" + (f": {code}" if code else "")


def reads_of(model: nn.Module, example: Any) -> list[Read]:
    """Run the model and return what it reads, in order."""
    recording = _Recording()
    with recording, torch.no_grad():
        call(model, example)
    return recording.reads


def reading(reads: Iterable[Read]) -> TorchFunctionMode:
    """Return a context in which the same places read the same values, whatever the tensors hold."""
    return _Fixed(reads)


def depends(model: nn.Module, example: Any, reads: list[Read]) -> Read | None:
    """Return a read that is another for other inputs, or None where all are the same.

    Inputs that the model refuses (by an assertion, by an index out of range) say nothing. Where it refuses all of
    them, the first read is returned.
    """
    accepted = 0
    for other in _others(example):
        try:
            found = reads_of(model, other)
        except Exception:  # the model refuses these values
            continue
        accepted += 1
        for expected, got in zip(reads, found, strict=False):
            if (expected.file, expected.line) != (got.file, got.line) or not _same(expected.value, got.value):
                return expected
        if len(found) != len(reads):
            return (reads + found)[min(len(found), len(reads)) - 1]
    return None if accepted else reads[0]


class _Recording(TorchFunctionMode):
    def __init__(self) -> None:
        self.reads: list[Read] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if func.__name__ in _READING:
            self.reads.append(Read(*_place(), value))
        return value


class _Fixed(TorchFunctionMode):
    def __init__(self, reads: Iterable[Read]) -> None:
        self.reads = list(reads)[::-1]

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _READING and self.reads and _place() == (self.reads[-1].file, self.reads[-1].line):
            return self.reads.pop().value
        return func(*args, **(kwargs or {}))


def _place() -> tuple[str, int]:
    """Return the file and line of the innermost caller outside torch and this module."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith((_TORCH, __file__)):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _others(example: Any) -> Iterator[Any]:
    draw = torch.Generator().manual_seed(0)
    for number in range(OTHERS):
        yield map_tensors(lambda tensor, n=number: _another(tensor, n, draw), example)  # type: ignore[misc]


def _another(tensor: Tensor, number: int, draw: torch.Generator) -> Tensor:
    """Return a tensor of other values: the same in another order, then of another kind."""
    if not tensor.numel():
        return tensor
    if bool(((tensor == 0) | (tensor == 1)).all()) and (number % 2 or not tensor.is_floating_point()):  # a mask
        return (torch.rand(tensor.shape, generator=draw) < 0.7).to(tensor)
    order = torch.randperm(tensor.numel(), generator=draw).to(tensor.device)
    shuffled = tensor.flatten()[order].view(tensor.shape)
    if number % 4 == 1:
        return -shuffled if tensor.is_floating_point() else shuffled
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=draw).to(tensor) * 10.0 ** (number % 4 - 2)
    low, high = int(tensor.min()), int(tensor.max())
    return torch.randint(low, high + 1, tensor.shape, generator=draw).to(tensor)


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))
