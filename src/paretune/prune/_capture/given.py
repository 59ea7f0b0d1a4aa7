"""The model as it was given: checked once, copied, and after every run of its forward as it was before.

A forward may count its calls, keep its last output or move a running mean, and it may be run on tensors without
values. None of that may be left in a model that is only looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from paretune.errors import InputError, SurgeryError

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""What every module has."""


def given(model: nn.Module) -> nn.Module:
    """Return the model to prune: the given one, or what torch.compile wraps; what none can be is an InputError."""
    if not isinstance(model, nn.Module):
        kind = getattr(model, "__name__", None) or type(model).__name__
        hint = f"give {kind}(...)" if callable(model) else "give the module itself, with its weights loaded"
        raise InputError(f"the model must be a torch.nn.Module object, and this is {kind}: {hint}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a scripted or traced model cannot be pruned: its code is fixed. Give the nn.Module that it was made "
            "from, and script or trace the result"
        )
    original = getattr(model, "_orig_mod", None)  # torch.compile(model)
    if isinstance(original, nn.Module):
        return given(original)
    for name, module in model.named_modules():
        if ".quantized." in type(module).__module__:
            raise InputError(
                f"'{name}' is quantized ({type(module).__name__}): its weights are packed and cannot be cut. Give "
                "the model as it was before quantization, and quantize the result"
            )
    for name, parameter in model.named_parameters():
        if not is_lazy(parameter) and parameter.is_inference():
            raise InputError(
                f"'{name}' was made in torch.inference_mode(), so that it cannot be trained or captured: make the "
                "model outside of it"
            )
    return model


def require_values(model: nn.Module) -> None:
    """Raise an InputError where a model is on the meta device: it can be analysed, and nothing else."""
    name = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if name is not None:
        raise InputError(
            f"'{name}' is on the meta device and holds no values to score, cut and compare; `prune.analyze` and "
            "what it says of groups and costs work there. To cut, make the model on a real device and load its "
            'weights: model.to_empty(device="cpu"), model.load_state_dict(...)'
        )


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy; a SurgeryError names what of the model cannot be copied."""
    kept = [tensor for module in model.modules() for tensor in _tensors(vars(module))]
    memo = {id(tensor): tensor.detach() for tensor in kept if not tensor.is_leaf}  # torch copies no computed one
    try:
        with torch.inference_mode(False):  # a copy made in it could never be trained
            return copy.deepcopy(model, memo)
    except Exception as error:
        where = f"'{culprit}' of the model" if (culprit := _not_copied(model)) else "the model"
        raise SurgeryError(
            f"{where} cannot be copied, and only a copy is ever cut: {type(error).__name__}: {error}. Make it in "
            "forward, or take it off the model while it is pruned"
        ) from error


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in an attribute, and in lists, tuples and dicts in it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in (list, tuple, dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _not_copied(model: nn.Module) -> str:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in OF_EVERY_MODULE:
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                return f"{path}.{name}".lstrip(".")
    return ""


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back what a forward writes into the model: buffers, attributes, and lists and dicts in them."""
    states = [_State(module) for module in model.modules() if not _has_yet_to_be_made(module)]
    try:
        yield
    finally:
        for state in states:
            state.put_back()


def _has_yet_to_be_made(module: nn.Module) -> bool:
    """Tell whether a module makes its parameters when it is first run, which is to stay."""
    return isinstance(module, LazyModuleMixin) and any(is_lazy(tensor) for tensor in module.parameters())


class _State:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plain = {name: value for name, value in vars(module).items() if name not in OF_EVERY_MODULE}
        self.filled = {name: copy.copy(v) for name, v in self.plain.items() if type(v) in (list, dict, set)}
        self.buffers = {
            name: (buffer, None if buffer.is_inference() else buffer._version, buffer.clone())
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def put_back(self) -> None:
        now = vars(self.module)
        for name in [name for name in now if name not in self.plain and name not in OF_EVERY_MODULE]:
            del now[name]
        now.update(self.plain)
        for name, before in self.filled.items():
            value: Any = self.plain[name]
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(before)
        for name, (buffer, version, values) in self.buffers.items():
            self.module._buffers[name] = buffer
            # batch norm writes its statistics without counting a version
            if version is not None and (buffer._version != version or not _equal(buffer, values)):
                with torch.no_grad():
                    buffer.copy_(values)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.is_meta or torch.equal(a, b)
