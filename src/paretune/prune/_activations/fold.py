"""Folding: a line goes into the layer or batch norm before it, and layers with no more between them become one.

Of a chain of linear neighbours, those are merged that make the multiply-accumulates of the chain least, or, with
fold="always", its layers fewest (a dynamic programme over its contiguous parts): two neighbours may take more as
one layer where three take less.

The work is done on a copy in float64, and every fold is kept only if the outputs stay what they were there, to
1e-10 of the largest. What stood in a fold and is not the first layer of it becomes a `Skip`.

Source: Kim et al., "Efficient Latency-Aware CNN Depth Compression via Two-Stage Dynamic Programming", ICML 2023,
arXiv:2301.12187, for the programme over parts of a network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paretune._replaced import LAYERS, Line
from paretune._skip import Skip
from paretune.prune._activations.compose import Layer, composed, is_norm, layer_of, normed, obstacle, scaled
from paretune.prune._activations.flow import Flow
from paretune.prune._activations.judge import difference, outputs_in_float64

EXACT, ROUGHLY = 1e-10, 1e-4
"""By how much outputs may differ, of the largest: in float64, and of a model that runs in its own type alone."""
FOLDS = ("auto", "always")


@dataclass(frozen=True)
class _Link:
    """Two layers in a row."""

    first: str
    norm: str | None
    """The batch norm between them."""
    second: str
    line: str | None
    """The activation between them that went."""


@dataclass(frozen=True)
class _Part:
    """A part of a chain as one layer."""

    layer: Layer
    macs: float
    reason: str = ""
    """Why it is none; then `layer` ends before the last."""


@dataclass
class Folder:
    """Folds lines of a model in float64, in eval mode, in place."""

    model: nn.Module
    flow: Flow
    example: Any
    fold: str = "auto"
    exact: float = EXACT
    """By how much outputs may differ, of the largest."""
    gone: list[str] = field(default_factory=list)
    """Modules that a `Skip` stands for."""
    specs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Modules that another stands for: its kind, and what it is made with."""
    folds: list[tuple[str, ...]] = field(default_factory=list)
    """Layers that were folded into one: its name first."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expected = outputs_in_float64(self.model, self.example)
        self._behind: dict[str, str] = {}
        """Layer or batch norm -> the line that it took in."""

    def take(self, lines: Sequence[str]) -> None:
        """Fold lines that stand in the model, in the order in which they run, as far as they can be."""
        for line in lines:
            before = self.flow.before(line)
            if before is None or not self._takes_lines(before):
                why = "what is before it is no linear layer, convolution or batch norm that it alone reads"
                self._stays(line, why)
            elif self._absorb(before, line):
                self._behind[before] = line
        chains = self._chains()
        inside = {link.line for chain in chains for link in chain}
        for line in lines:
            if line in self.gone and line not in inside:
                self._apart(line, "it has not a linear layer or convolution on both sides that nothing else reads")
        for chain in chains:
            self._merge(chain)

    def _chains(self) -> list[list[_Link]]:
        """Return the longest rows of linear neighbours that have a line between some of them."""
        links: dict[str, _Link] = {}
        for name in self.flow.calls:
            norm, after = None, self.flow.after(name) if self._free(name) else None
            if after is not None and self._is_norm(after):
                norm, after = after, self.flow.after(after)
            if after is not None and self._free(after):
                links[name] = _Link(name, norm, after, self._behind.get(norm or name))
        chains: list[list[_Link]] = []
        for name, link in links.items():
            before = next((chain for chain in chains if chain[-1].second == name), None)
            if before is None:  # branches may run in turns: the chain is not always the last one begun
                chains.append([link])
            else:
                before.append(link)
        return [chain for chain in chains if any(link.line for link in chain)]

    def _is_norm(self, name: str) -> bool:
        module = self.model.get_submodule(name)
        return is_norm(module) and self._own(module)

    def _takes_lines(self, name: str) -> bool:
        module: Any = self.model.get_submodule(name)
        return bool(module.affine) if self._is_norm(name) else self._free(name) is not None

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
        if is_norm(module):
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

    def _merge(self, chain: list[_Link]) -> None:
        """Merge the parts of a chain that are better as one layer."""
        names = [chain[0].first, *(link.second for link in chain)]
        parts = self._parts(chain, names)
        ends = self._best(len(names), parts)
        for start, stop in ends:
            if stop > start:
                self._become(chain[start:stop], parts[start, stop].layer)
        for (start, middle), (_, stop) in itertools.pairwise(ends):
            link = chain[middle]
            if link.line is not None:
                self._apart(link.line, self._why(names, parts, start, middle, stop))

    def _parts(self, chain: list[_Link], names: list[str]) -> dict[tuple[int, int], _Part]:
        """Return (first, last) -> the one layer that this part of a chain is, or what forbids it."""
        parts: dict[tuple[int, int], _Part] = {}
        for start, name in enumerate(names):
            layer = self._free(name)
            assert layer is not None
            parts[start, start] = _Part(layer, self._cost(layer, name))
            for stop, link in enumerate(chain[start:], start + 1):
                if link.norm is not None:
                    layer = normed(layer, self.model.get_submodule(link.norm))
                second = self._free(link.second)
                assert second is not None
                reason = obstacle(layer, second)
                if reason:
                    parts[start, stop] = _Part(
                        layer, math.inf, f"{name} and {link.second} are no one layer: {reason}"
                    )
                    break
                layer = composed(layer, second)
                parts[start, stop] = _Part(layer, self._cost(layer, link.second))
        return parts

    def _cost(self, layer: Layer, last: str) -> float:
        """Return the multiply-accumulates of one sample of a layer that gives what `last` gives."""
        shape = self.flow.calls[last].gave
        places = shape[2:] if layer.kernel else shape[1:-1]
        return layer.weight.numel() * math.prod(places)

    def _best(self, count: int, parts: dict[tuple[int, int], _Part]) -> list[tuple[int, int]]:
        """Return the parts into which a chain falls, (first, last) each."""
        best: list[tuple[tuple[float, float], list[tuple[int, int]]]] = [((0, 0), [])]
        for stop in range(count):
            options = []
            for start in range(stop + 1):
                part = parts.get((start, stop))
                if part is None or part.reason:
                    continue
                (macs, layers), before = best[start]
                key = (macs + part.macs, layers + 1)
                options.append((key, [*before, (start, stop)]))
            best.append(min(options, key=lambda option: option[0][::-1] if self.fold == "always" else option[0]))
        return best[-1][1]

    def _why(
        self, names: list[str], parts: dict[tuple[int, int], _Part], start: int, middle: int, stop: int
    ) -> str:
        """Return why two parts of a chain are not one."""
        reasons = [part.reason for last in range(middle, stop + 1) if (part := parts.get((start, last)))]
        reason = next(filter(None, reasons), "")
        if reason:
            return reason
        apart = parts[start, middle].macs + parts[middle + 1, stop].macs
        return (
            f"{names[start]} and {names[stop]} as one would take {parts[start, stop].macs:.0f} "
            f"multiply-accumulates instead of {apart:.0f}; fold='always' folds them all the same"
        )

    def _become(self, chain: Sequence[_Link], merged: Layer) -> None:
        """Let the first layer of a chain give what the last gives."""
        first = chain[0].first
        others = [name for link in chain for name in (link.norm, link.second) if name is not None]
        between = [self.flow.calls[name].gives for name in (first, *others[:-1])]
        others += [name for number in between for name in self.flow.same[number]]
        old = {name: self.model.get_submodule(name) for name in others}
        old = {name: module for name, module in old.items() if not isinstance(module, Skip)}
        if not self._try({first: built(merged)} | {name: Skip(module) for name, module in old.items()}):
            self.notes.append(f"{first} and {chain[-1].second} stay apart: as one they would change the outputs")
            return
        self.specs[first] = merged.spec()
        for name in old:
            self.specs.pop(name, None)
            self.gone.append(name)
        self.folds.append((first, *(link.second for link in chain)))

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
            return difference(self.expected, outputs_in_float64(self.model, self.example)) <= self.exact
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
    empty = LAYERS[kind](**arguments, device="meta", dtype=layer.weight.dtype)  # draws no random numbers
    module = empty.to_empty(device=layer.weight.device)
    _write(module, layer.weight, layer.bias)
    return module
