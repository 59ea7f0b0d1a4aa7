"""Tensors whose weights come and go while a model trains: what stays, what is set aside, and their scores.

All of it lies in buffers of the model, next to the weights, so that a checkpoint of the training holds it and the
device and the layout follow; `remove` takes them away again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paretune.prune._sparse.criteria import Criterion
from paretune.prune._sparse.criteria._rigl import decay

_BUFFER = "_paretune_{part}_{tensor}"
_PARTS = ("stays", "aside", "score")


@dataclass
class Watched:
    """One tensor that loses weights."""

    module: nn.Module
    tensor: str
    criterion: Criterion
    allowed: Tensor
    """bool: False where a weight was out before the training, and never comes back."""
    gradient: Tensor | None = None
    """Of the last step, of weights that are out too."""

    def __post_init__(self) -> None:
        parameter = self.parameter
        self._add("stays", self.allowed.clone())
        if self.criterion.sets_aside:
            self._add("aside", torch.zeros_like(parameter.detach()))
        if self.criterion.score is not None:
            self._add("score", torch.zeros_like(parameter.detach()))
        self._handle: RemovableHandle | None = (
            parameter.register_hook(self._seen) if parameter.requires_grad else None  # type: ignore[no-untyped-call]
        )

    def _add(self, part: str, value: Tensor) -> None:
        self.module.register_buffer(_BUFFER.format(part=part, tensor=self.tensor), value)

    def _part(self, part: str) -> Tensor | None:
        found: Tensor | None = getattr(self.module, _BUFFER.format(part=part, tensor=self.tensor), None)
        return found

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter, zero where weights are out."""
        return self.module.get_parameter(self.tensor)

    @property
    def stays(self) -> Tensor:
        """Which weights are in."""
        found = self._part("stays")
        assert found is not None
        return found

    @property
    def weight(self) -> Tensor:
        """The parameter with what is set aside."""
        aside = self._part("aside")
        return self.parameter.detach() if aside is None else self.parameter.detach() + aside

    def _seen(self, gradient: Tensor) -> Tensor:
        """Note the gradient of all weights, and hand on what the optimizer is to see."""
        self.gradient = gradient.detach()
        score = self._part("score")
        if score is not None and self.criterion.score is not None:
            score.add_(self.criterion.score(self.weight, self.gradient))
        return gradient if self.criterion.trains_aside else gradient * self.stays

    def settle(self) -> None:
        """After a step of the optimizer: zero what is out, and set aside how far that moved."""
        parameter, aside = self.parameter.detach(), self._part("aside")
        if aside is not None and self.criterion.trains_aside:
            aside.add_(parameter.masked_fill(self.stays, 0))
        parameter.mul_(self.stays)  # the momentum of what went goes on for a while

    def importance(self) -> Tensor:
        """Return what weights are compared by."""
        return self.criterion.importance(self.weight, self.stays, self._part("score"))

    def choose(self, stays: Tensor) -> None:
        """Let these weights be in from now on."""
        stays = stays & self.allowed.to(stays.device)
        weight, aside = self.weight, self._part("aside")
        if aside is not None:
            aside.copy_(weight.masked_fill(stays, 0))
        self.parameter.detach().copy_(weight * stays)
        self.stays.copy_(stays)

    def remove(self) -> None:
        """Leave nothing in the model but the weights."""
        if self._handle is not None:
            self._handle.remove()
        for part in _PARTS:
            name = _BUFFER.format(part=part, tensor=self.tensor)
            if name in self.module._buffers:
                del self.module._buffers[name]


def watch(
    model: nn.Module, names: Iterable[str], criterion: Criterion, out: Mapping[str, Tensor]
) -> list[Watched]:
    """Begin to watch parameters, by dotted name; out: of some, which weights may never be in, bool."""
    watched = []
    for name in names:
        path, _, tensor = name.rpartition(".")
        allowed = torch.ones_like(model.get_parameter(name), dtype=torch.bool)
        if name in out:
            allowed &= ~out[name]
        watched.append(Watched(model.get_submodule(path), tensor, criterion, allowed))
    return watched


def raised(least: float, exchanged: float, progress: float) -> float:
    """Return the ratio that goes before weights are exchanged, for the ratio `least` that is due.

    >>> round(raised(0.5, 0.3, 0.0), 3)
    0.65
    """
    return least + (1 - least) * exchanged * decay(progress)
