"""Folding: a line goes into the layer or batch norm before it, and two layers with no more between are one.

The work is done on a copy in float64, and every fold is kept only if the outputs stay what they were there, to
1e-10 of the largest. What stood in a fold and is not the first layer of it becomes a `Skip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paretune._replaced import Line
from paretune._skip import Skip
from paretune.measure import macs as count_macs
from paretune.prune._activations.compose import NORMS, Layer, composed, layer_of, normed, obstacle, scaled
from paretune.prune._activations.flow import Flow
from paretune.prune._activations.judge import difference, outputs_in_float64

EXACT = 1e-10
"""By how much outputs in float64 may differ, of the largest."""
FOLDS = ("auto", "always")


@dataclass
class Folder:
    """Folds lines of a model in float64, in eval mode, in place."""

    model: nn.Module
    flow: Flow
    example: Any
    fold: str = "auto"
    gone: list[str] = field(default_factory=list)
    """Modules that a `Skip` stands for."""
    specs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Modules that another stands for: its kind, and what it is made with."""
    folds: list[tuple[str, ...]] = field(default_factory=list)
    """Layers that were folded into one: its name first."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expected = outputs_in_float64(self.model, self.example)

    def take(self, line: str) -> None:
        """Fold a line that stands in the model as far as it can be."""
        norm = layer = None
        before = self.flow.before(line)
        if before is not None and self._takes_lines(before):
            if isinstance(self.model.get_submodule(before), NORMS):
                norm, layer = before, self.flow.before(before)
            else:
                layer = before
        if before is None or (norm or layer) is None:
            self._stays(
                line, "what is before it is no linear layer, convolution or batch norm that it alone reads"
            )
            return
        if not self._absorb(before, line):
            return
        if layer is None or self._free(layer) is None:
            self._apart(line, "no linear layer or convolution is before it")
            return
        after = self.flow.after(before)
        if after is None or self._free(after) is None:
            self._apart(line, "what is behind it is no linear layer or convolution that alone reads it")
            return
        self._merge(line, layer, norm, after)

    def _takes_lines(self, name: str) -> bool:
        module: Any = self.model.get_submodule(name)
        if type(module) in NORMS:
            return bool(module.affine) and module.running_mean is not None and self._own(module)
        return self._free(name) is not None

    def _free(self, name: str) -> Layer | None:
        """Return a layer that may be changed: no other module has its weights, no hook changes what it gives."""
        module = self.model.get_submodule(name)
        return layer_of(module) if self._own(module) else None

    def _own(self, module: nn.Module) -> bool:
        mine = {id(parameter) for parameter in module.parameters()}
        shared = any(
            id(parameter) in mine
            for other in self.model.modules()
            if other is not module
            for parameter in other._parameters.values()
            if parameter is not None
        )
        return not (shared or module._forward_hooks or module._forward_pre_hooks)

    def _absorb(self, before: str, line: str) -> bool:
        """Let a layer or batch norm give what the line behind it gives."""
        old = self.model.get_submodule(line)
        module: Any = self.model.get_submodule(before)
        assert isinstance(old, Line)
        scale, shift = old.scale.detach(), old.shift.detach()
        if type(module) in NORMS:
            kept = module.weight.detach().clone(), module.bias.detach().clone()
            _write(module, kept[0] * scale, kept[1] * scale + shift)
            self._put(line, Skip(old))
            if not self._same():
                _write(module, *kept)
                self._put(line, old)
                self._stays(line, f"folded into {before} it would change the outputs")
                return False
        else:
            layer = layer_of(module)
            assert layer is not None
            if not self._try({before: built(scaled(layer, scale, shift)), line: Skip(old)}):
                self._stays(line, f"folded into {before} it would change the outputs")
                return False
            if module.bias is None:  # the shift needs one
                self.specs[before] = layer.spec()
        self.specs.pop(line, None)
        self.gone += [line]
        self.flow.join(before, line)
        return True

    def _merge(self, line: str, first: str, norm: str | None, second: str) -> None:
        """Let the first layer give what the second behind it gives."""
        near, far = self._free(first), self._free(second)
        assert near is not None and far is not None
        if norm is not None:
            near = normed(near, self.model.get_submodule(norm))
        reason = obstacle(near, far)
        if reason:
            self._apart(line, f"{first} and {second} are no one layer: {reason}")
            return
        merged = composed(near, far)
        between = [name for name in (norm, second) if name is not None]
        inner = [*self.flow.same[self.flow.calls[norm or first].gives]]
        inner += self.flow.same[self.flow.calls[first].gives] if norm else []
        inner = [name for name in inner if not isinstance(self.model.get_submodule(name), Skip)]
        old = {name: self.model.get_submodule(name) for name in (first, *between, *inner)}
        before = count_macs(self.model, self.example)
        new = {first: built(merged)} | {name: Skip(old[name]) for name in (*between, *inner)}
        if not self._try(new):
            self._apart(line, f"{first} and {second} as one would change the outputs")
            return
        after = count_macs(self.model, self.example)
        if after > before and self.fold != "always":
            for name, module in old.items():
                self._put(name, module)
            self._apart(
                line,
                f"{first} and {second} as one would take {after} multiply-accumulates instead of {before}; "
                "fold='always' folds them all the same",
            )
            return
        self.specs[first] = merged.spec()
        for name in (*between, *inner):
            self.specs.pop(name, None)
            self.gone.append(name)
        for name in between:
            self.flow.join(first, name)
        known = {names[0]: names for names in self.folds}
        parts = (*known.pop(first, (first,)), *known.pop(second, (second,)))
        self.folds = [*known.values(), parts]

    def _try(self, new: dict[str, nn.Module]) -> bool:
        """Put modules in their places, and the old ones back if the outputs are no longer the same."""
        old = {name: self.model.get_submodule(name) for name in new}
        for name, module in new.items():
            self._put(name, module.train(old[name].training))
        if self._same():
            return True
        for name, module in old.items():
            self._put(name, module)
        return False

    def _same(self) -> bool:
        try:
            return difference(self.expected, outputs_in_float64(self.model, self.example)) <= EXACT
        except Exception:  # code around a removed module asks it for what it no longer has
            return False

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)

    def _stays(self, line: str, reason: str) -> None:
        self.notes.append(f"{line} is a line in a module of its own: {reason}")

    def _apart(self, line: str, reason: str) -> None:
        self.notes.append(f"nothing was folded around {line}: {reason}")


def _write(norm: Any, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)


def built(layer: Layer) -> nn.Module:
    """Return the module of a layer, with its values."""
    kind, arguments = layer.spec()
    module: nn.Module = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}[kind](
        **arguments, device=layer.weight.device, dtype=layer.weight.dtype
    )
    _write(module, layer.weight, layer.bias)
    return module


def in_order(flow: Flow, names: Sequence[str]) -> list[str]:
    """Return modules in the order in which they run."""
    return [name for name in flow.calls if name in names]
