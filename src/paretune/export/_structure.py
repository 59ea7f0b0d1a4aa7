"""Nested inputs and outputs of a PyTorch model as flat, named tensors, as an ONNX file has them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paretune.errors import TaskError


def input_names(model: nn.Module, example: Any) -> list[str]:
    """Return a name for each tensor of the example: the parameter of `forward` that takes it, or its keyword.

    Tensors inside a parameter's tuple or dict are PARAMETER_0 or PARAMETER_KEY.
    """
    if isinstance(example, Mapping):
        return [name for name, _ in _walk(example, "")]
    positional = tuple(example) if isinstance(example, list | tuple) else (example,)
    try:
        bound = inspect.signature(model.forward).bind(*positional)
    except (TypeError, ValueError):
        return [name for name, _ in _walk(positional, "input")]
    return [name for key, value in bound.arguments.items() for name, _ in _walk(value, key)]


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the tensors of a model's output by name, in order.

    A tensor is `output`; a tuple's are `output_0`, `output_1`, ...; a dict's (or a named tuple's, a dataclass's)
    bear their keys. Values that are no tensors are left out; an output without any is a TaskError.
    """
    if isinstance(output, Tensor):
        return {"output": output}
    fields = fields_of(output)
    found = dict(_walk(output if fields is None else fields, ""))
    if fields is None:
        found = {f"output_{i}": tensor for i, tensor in enumerate(found.values())}
    if not found:
        raise TaskError(
            f"the model's output ({type(output).__name__}) holds no tensor, so there is nothing to export"
        )
    return found


def fields_of(output: Any) -> dict[str, Any] | None:
    """Return the named parts of a dict, named tuple, dataclass or plain object; None for tuples and lists."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, list | tuple):
        return None
    if dataclasses.is_dataclass(output):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    return dict(vars(output)) if hasattr(output, "__dict__") else {}


def _walk(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return []
    return [pair for key, item in items for pair in _walk(item, f"{name}_{key}" if name else str(key))]
