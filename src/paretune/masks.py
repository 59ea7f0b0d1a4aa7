"""Masks: single weights, or units of them, that are zero and stay zero whatever trains the model next.

A masked model is a plain one: its weights hold the zeros, and each module with masked weights says which of its
tensors they are. There is nothing to fold away before a save or an export, and a copy, a structural cut or another
layer around the model changes nothing. Training holds the zeros (`held`): the gradient of a masked weight is zero,
and with it the momentum and the decay of every optimizer.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from paretune.errors import SurgeryError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

_MARK = "_paretune_masked"
"""The attribute of a module that names its masked tensors."""


@dataclass(frozen=True)
class Mask:
    """Which weights of a tensor are zero, as plain JSON."""

    tensor: str
    """The parameter's dotted name in the model."""
    shape: tuple[int, ...]
    bits: str
    """One bit for each weight, in the order of the memory, 1 where it stays: packed, compressed, in base 64."""

    @classmethod
    def of(cls, tensor: str, stays: torch.Tensor) -> Mask:
        """Return the mask of a tensor; stays: bool, of its shape."""
        import numpy as np

        packed = np.packbits(stays.detach().cpu().numpy().astype(bool).reshape(-1))
        return cls(tensor, tuple(stays.shape), base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode())

    def stays(self) -> torch.Tensor:
        """Return which weights stay: bool, of the tensor's shape; a damaged mask is a SurgeryError."""
        import numpy as np
        import torch

        count = prod(self.shape)
        try:
            packed = np.frombuffer(zlib.decompress(base64.b64decode(self.bits, validate=True)), np.uint8)
        except (binascii.Error, zlib.error, TypeError, ValueError) as error:
            raise SurgeryError(f"the mask of '{self.tensor}' is damaged: {error}") from error
        if len(packed) != -(-count // 8):
            raise SurgeryError(f"the mask of '{self.tensor}' is damaged: it is not of {count} weights")
        return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool)).reshape(self.shape)


def apply(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Set weights to zero, in place, and note which tensors are masked from now on.

    masks: for each parameter, by its dotted name, which of its weights stay: bool, of its shape.
    """
    import torch

    with torch.no_grad():
        for name, stays in masks.items():
            parameter = model.get_parameter(name)
            parameter.masked_fill_(~stays.to(parameter.device), 0)
            _mark(model, name)


def release(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Mask these parameters no longer, and return which weights of those that were are zero: bool, by name."""
    wanted, zeros = set(names), {}
    for name, parameter in masked(model).items():
        if name in wanted:
            zeros[name] = parameter.detach() == 0
            path, _, tensor = name.rpartition(".")
            module = model.get_submodule(path)
            setattr(module, _MARK, tuple(other for other in getattr(module, _MARK) if other != tensor))
    return zeros


def check(model: nn.Module, masks: tuple[Mask, ...]) -> None:
    """Raise a SurgeryError for a mask whose parameter the model has not, or has in another shape."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for mask in masks:
        if mask.tensor not in parameters:
            raise SurgeryError(
                f"these masks are of another architecture: the model has no parameter '{mask.tensor}'."
                f"{nearest(mask.tensor, parameters)} Replay them on a fresh model of the class that was pruned."
            )
        if tuple(parameters[mask.tensor].shape) != mask.shape:
            raise SurgeryError(
                f"the weights of '{mask.tensor}' changed their shape since they were masked: they are "
                f"{tuple(parameters[mask.tensor].shape)}, and the mask is of {mask.shape}. Replay manifests in "
                "the order in which they were made, each on what the one before gave"
            )


def masked(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are masked, by name; a tied one under its first name."""
    found: dict[str, Any] = {}
    seen = set()
    for path, module in model.named_modules():
        for tensor in getattr(module, _MARK, ()):
            parameter = module._parameters.get(tensor)
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{path}.{tensor}".lstrip(".")] = parameter
    return found


def carry(source: nn.Module, model: nn.Module, called: Callable[[str], str] = str) -> None:
    """Note in a model what is masked in another. called: the name that a tensor of the other has in the model."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name in map(called, masked(source)):
        if name in names:
            _mark(model, name)


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Hold what is zero in masked tensors at zero while gradients train the model.

    It works with any training loop and optimizer that starts inside: gradients of masked weights are zero, so
    that no momentum gathers and no step is made. Without masked tensors nothing is done.

    >>> import torch
    >>> from paretune import prune
    >>> model = prune.weights(torch.nn.Linear(8, 4), ratio=0.5).model
    >>> with held(model):
    ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    ...     for step in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(2, 8)).square().sum().backward()
    ...         optimizer.step()
    >>> int((model.weight == 0).sum())
    16
    """
    held = [
        (parameter, parameter.detach() != 0) for parameter in masked(model).values() if parameter.requires_grad
    ]
    handles = [
        parameter.register_hook(lambda gradient, stays=stays: gradient * stays)  # type: ignore[no-untyped-call]
        for parameter, stays in held
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mark(model: nn.Module, name: str) -> None:
    path, _, tensor = name.rpartition(".")
    module = model.get_submodule(path)
    before: tuple[str, ...] = getattr(module, _MARK, ())
    if tensor not in before:
        setattr(module, _MARK, (*before, tensor))
