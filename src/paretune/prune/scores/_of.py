"""The two sides of a score that has a form of the output and a form of the weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from paretune.errors import InputError, nearest

Given = Mapping[str, Tensor | None]


def side(score: str, of: str, *, output: Given, weight: Given) -> list[Tensor]:
    """Return the tensors that `of` ("output" or "weight") names; one that is missing is an InputError."""
    sides = {"output": output, "weight": weight}
    if of not in sides:
        raise InputError(f"{score}: of='{of}' must be one of {', '.join(sides)}.{nearest(str(of), sides)}")
    found = [tensor for tensor in sides[of].values() if tensor is not None]
    if len(found) < len(sides[of]):
        missing = ", ".join(name for name, tensor in sides[of].items() if tensor is None)
        raise InputError(f"{score}: of='{of}' needs {missing}; pass {missing}, or the other form: of=")
    return found
