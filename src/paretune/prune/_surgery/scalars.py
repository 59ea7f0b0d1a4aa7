"""Scalars: the plain numbers that a model's code multiplies, divides and compares with, seen as it runs.

A cut changes lengths and nothing else. Code that takes a number from a length (a scale of `size ** -0.5`, a mean
that is written as a sum divided by the width) computes another function once the length has changed, by however
little: attention over tokens that are alike hardly shows its scale in what it gives. The numbers do. They are read
off a run on fake tensors, which have shapes and no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from paretune.data import call, map_tensors
from paretune.prune._capture.capture import evaluating, quiet
from paretune.prune._capture.given import unchanged

Scalars = list[tuple[str, tuple[float, ...]]]
"""(operator, its numbers) in the order of the run."""

_COUNTING = ("arange", "linspace")
"""Operators whose numbers are lengths."""


def scalars_of(model: nn.Module, example: Any) -> Scalars | None:
    """Return the numbers that a model computes with in eval mode; None where it needs data to run."""
    recorder = _Recorder()
    with unchanged(model), evaluating(model), quiet():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode, recorder:
                call(model, map_tensors(mode.from_tensor, example))
        except Exception:  # code that looks at values, or does not run: what it gives is compared all the same
            return None
    return recorder.found


def changed(before: Scalars | None, after: Scalars | None) -> str:
    """Return in words the first number that is another one; empty for none, or where the code took another way.

    >>> changed([("mul", (0.5,))], [("mul", (0.25,))])
    'mul by 0.25 where it was 0.5'
    """
    if before is None or after is None or [name for name, _ in before] != [name for name, _ in after]:
        return ""
    for (name, old), (_, new) in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=False):
            if a != b and not (a != a and b != b):
                return f"{name} by {b:g} where it was {a:g}"
    return ""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Scalars = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in _COUNTING:
            given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            given |= kwargs or {}
            numbers = tuple(
                float(given[argument.name])
                for argument in func._schema.arguments
                if _computes(argument, given.get(argument.name))
            )
            if numbers:
                self.found.append((name, numbers))
        return func(*args, **(kwargs or {}))


def _computes(argument: Any, value: Any) -> bool:
    """Tell whether a value is a number to compute with: no length, no axis, no switch."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and "int" not in str(argument.type)
