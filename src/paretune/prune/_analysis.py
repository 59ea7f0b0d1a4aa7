"""Analysis: what of a model can be pruned, what not and why, and what any choice of channels would cost.

Nothing is cut here. `analyze` captures the model, walks the graph (`couplings`) and settles the groups. Widths
that are written in the code are no obstacle to it: whether the model's own class follows is tried where that class
alone is asked for (`_probe`), or after the cut (`_deliver`).
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn.parameter import is_lazy

from paretune.errors import InfeasibleError, InputError, SurgeryError, names_of, nearest
from paretune.prune._capture.capture import Capture, accepts, capture
from paretune.prune._capture.given import given
from paretune.prune._capture.graph import Numbers, numbers_per_sample, runnable
from paretune.prune._capture.shapes import settle_shapes
from paretune.prune._compare import mistaken
from paretune.prune._couplings.couplings import Couplings, couple
from paretune.prune._couplings.groups import STRUCTURES, Group, build_groups, layer_name, settle
from paretune.prune._couplings.rules import rule_of
from paretune.prune._couplings.units import Axis
from paretune.prune._ranking import smallest
from paretune.prune._surgery.fold import computed_weights, fold_computed, without_parametrizations
from paretune.prune._surgery.scalars import Scalars, scalars_of
from paretune.prune._surgery.surgery import Keep, blocked, kept

TRIED = 2_000_000_000
"""Multiply-accumulates up to which the model is run on the example by `analyze`, and not first by `cut`: to run a
larger one would take longer than to capture it."""


@dataclass(frozen=True)
class Layer:
    """One leaf module, or one parameter of the model itself, as `paretune check` lists it."""

    name: str
    type: str
    axes: tuple[Axis, ...]
    """Units of every axis of its output, the batch first."""
    makes: bool
    """True where it makes channels; an activation or a norm only passes them on."""
    prunable: int
    """Channels that can be removed (of those that it makes)."""
    reason: str
    """Why none can, empty otherwise."""
    remedy: str

    def shape(self, keep: Keep, repeat: int = 1) -> tuple[int, ...]:
        """Return the shape of its output once only `keep` stays, for the batch of the given example."""
        sizes = [int(kept(keep, axis).sum()) for axis in self.axes]
        return (max(1, sizes[0] // repeat), *sizes[1:]) if sizes else ()


@dataclass
class Analysis:
    """What `analyze` found. Counts are for one sample."""

    model: nn.Module
    captured: Capture
    couplings: Couplings
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    """Modules whose parametrization was folded: `model` is then a copy of the one that was given."""
    base: tuple[dict[str, Any], ...] = ()
    """Where weights that forward computes were folded: `model` as a manifest stores it."""
    _counts: dict[int, tuple[Axis, int, Axis]] = field(default_factory=dict, repr=False)
    _units: dict[int, tuple[Axis, Axis, Axis]] = field(default_factory=dict, repr=False)
    """By the id of an axis, which is held with what is known of it: a freed one's id is given away again."""

    @property
    def unprunable(self) -> tuple[tuple[str, str, str], ...]:
        """(name, reason, remedy) of every layer that makes channels of which none can be removed."""
        return tuple((la.name, la.reason, la.remedy) for la in self.layers if la.makes and not la.prunable)

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The captured graph over the model's own parameters, called as the model is, at any batch it accepts."""
        return runnable(self.model, self.captured, self.numbers)

    @cached_property
    def numbers(self) -> Numbers | None:
        """The numbers in the graph that follow the batch; None where it runs at the captured batch only."""
        return numbers_per_sample(self.model, self.captured)

    @cached_property
    def miscaptured(self) -> str:
        """In words how the captured graph differs from the model, which it must be; empty where it does not."""
        return mistaken(self.model, self.graph, self.captured.example)

    @cached_property
    def scalars(self) -> Scalars | None:
        """The plain numbers that the model's own code computes with; None where it needs data to run."""
        return scalars_of(self.model, self.captured.example)

    @cached_property
    def everything(self) -> Keep:
        """Every unit stays."""
        return self.keep(np.empty(0, np.int64))

    def keep(self, removed: Axis) -> Keep:
        """Return for every unit whether it stays once `removed` are gone."""
        return self.couplings.units.keep(removed)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the model for one sample."""
        return self.macs_of(self.everything)

    @cached_property
    def params(self) -> int:
        """Numbers in the parameters of the model, tied ones once."""
        return self.params_of(self.everything)

    def macs_of(self, keep: Keep) -> int:
        """Return the multiply-accumulates that are left once only `keep` stays: exact, nothing is run."""
        return round(sum(cost.scale * self._product(cost.axes, keep) for cost in self.couplings.costs))

    def params_of(self, keep: Keep) -> int:
        """Return the parameters that are left once only `keep` stays."""
        return self._elsewhere + sum(int(self._product(axes, keep)) for axes in self._parameters)

    @cached_property
    def _parameters(self) -> list[tuple[Axis, ...]]:
        """The axes of every parameter in the graph; where blocks read different channels, those of the first."""
        names = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        grouped = blocked(self.couplings)
        return [
            tuple(grouped[name, i][0] if (name, i) in grouped else axis for i, axis in enumerate(axes))
            for name, axes in self.couplings.tensors.items()
            if name in names
        ]

    @cached_property
    def _elsewhere(self) -> int:
        """Parameters that the graph does not use."""
        return sum(p.numel() for n, p in self.model.named_parameters() if n not in self.couplings.tensors)

    def length(self, axis: Axis, keep: Keep) -> int:
        """Return how long an axis is once only `keep` stays."""
        if id(axis) not in self._counts:
            real = axis[axis >= 0]
            self._counts[id(axis)] = axis, len(axis) - len(real), real
        _, fixed, real = self._counts[id(axis)]
        return fixed + int(np.count_nonzero(keep[real]))

    def _product(self, axes: tuple[Axis, ...], keep: Keep) -> float:
        return math.prod((float(self.length(axis, keep)) for axis in axes), start=1.0)

    @cached_property
    def floor(self) -> Keep:
        """What stays when every group is reduced as far as it goes."""
        return self.keep(smallest(self.couplings, self.groups))

    @cached_property
    def ceiling(self) -> dict[str, float]:
        """The smallest MACs and parameters that can be reached, as amounts and as fractions of the model's."""
        macs, params = self.macs_of(self.floor), self.params_of(self.floor)
        return {
            "macs": macs,
            "params": params,
            "macs_fraction": macs / max(1, self.macs),
            "params_fraction": params / max(1, self.params),
        }

    @cached_property
    def savings(self) -> list[tuple[int, int]]:
        """(MACs, parameters) that go when one group alone is reduced as far as it goes, group by group."""
        goes = np.zeros(self.couplings.units.count, bool)
        goes[smallest(self.couplings, self.groups)] = True
        member = np.full(self.couplings.units.count, -1)
        for index, group in enumerate(self.groups):
            member[group.blocks.ravel()] = index
        macs, params = np.zeros(len(self.groups)), np.zeros(len(self.groups))
        for cost in self.couplings.costs:
            self._add_savings(macs, cost.axes, cost.scale, goes, member)
        for axes in self._parameters:
            self._add_savings(params, axes, 1.0, goes, member)
        return [(round(a), round(b)) for a, b in zip(macs, params, strict=True)]

    def counted(self, of: str) -> tuple[list[tuple[tuple[Axis, ...], float]], int]:
        """Return what `macs` or `params` are the sum of, and a number that nothing changes.

        Each is (axes, scale): the product of the axes' lengths, times the scale.
        """
        if of == "macs":
            return [(cost.axes, cost.scale) for cost in self.couplings.costs], 0
        return [(axes, 1.0) for axes in self._parameters], self._elsewhere

    def unit_savings(self, of: str, keep: Keep) -> NDArray[np.float64]:
        """Return the `macs` or `params` that go if one more unit goes when only `keep` stays, unit by unit."""
        tensors, _ = self.counted(of)
        of_axis: dict[int, float] = defaultdict(float)
        axes_by_id: dict[int, Axis] = {}
        for axes, scale in tensors:
            whole = scale * self._product(axes, keep)
            for axis in axes:
                of_axis[id(axis)] += whole / max(1.0, self._product((axis,), keep))
                axes_by_id[id(axis)] = axis
        saved = np.zeros(self.couplings.units.count)
        for key, each in of_axis.items():
            places, units = self._members(axes_by_id[key])
            saved += each * np.bincount(units[keep[places]], minlength=len(saved))
        return saved

    def _members(self, axis: Axis) -> tuple[Axis, Axis]:
        """Return (place, unit) pairs: what stands at a position that can go, and each unit that can remove it."""
        if id(axis) not in self._units:
            factors = self.couplings.units.factors(axis)
            row, column = np.nonzero(factors >= 0)
            self._units[id(axis)] = axis, axis[row], factors[row, column]
        return self._units[id(axis)][1:]

    def _add_savings(
        self, total: NDArray[Any], axes: tuple[Axis, ...], scale: float, goes: Keep, member: Axis
    ) -> None:
        factors = [self.couplings.units.factors(axis) for axis in axes]
        owners = [np.where(f >= 0, member[np.maximum(f, 0)], -1) for f in factors]
        full = scale * float(np.prod([len(axis) for axis in axes]))
        for group in {int(g) for owner in owners for g in np.unique(owner)} - {-1}:
            left = scale
            for units, owner in zip(factors, owners, strict=True):
                gone = ((owner == group) & goes[np.maximum(units, 0)]).any(axis=1)
                left *= len(units) - int(gone.sum())
            total[group] += full - left

    def table(self, keep: Keep | None = None) -> list[dict[str, Any]]:
        """Return one plain row per layer: its output now and, with `keep`, after the cut; prunable or why not."""
        return [
            {
                "layer": layer.name,
                "type": layer.type,
                "shape": list(layer.shape(self.everything, self.captured.repeat)),
                "after": None if keep is None else list(layer.shape(keep, self.captured.repeat)),
                "makes_channels": layer.makes,
                "prunable": layer.prunable,
                "reason": layer.reason,
                "remedy": layer.remedy,
            }
            for layer in self.layers
        ]

    def group_table(self) -> list[dict[str, Any]]:
        """Return one plain row per group: its layers, width, prunable channels, and what hangs on it."""
        return [
            {
                "group": group.title,
                "structure": group.structure,
                "layers": list(group.layers),
                "width": group.width,
                "prunable": group.prunable,
                "step": group.step,
                "macs": macs,
                "params": params,
            }
            for group, (macs, params) in zip(self.groups, self.savings, strict=True)
        ]


def analyze(model: nn.Module, example: Any) -> Analysis:
    """Find what can be pruned; the model is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs, any batch.
    A model that cannot be captured is a SurgeryError that names the user's line.
    """
    original = given(model)
    if any(map(is_lazy, original.parameters())):
        accepts(original, example)  # which makes them
    try:
        analysis = _analyzed(original, example, compiled=original is not model)
    except Exception:  # where the model does not accept the example either, that is what to say
        accepts(original, example)
        raise
    if analysis.macs <= TRIED:
        accepts(original, example)
    return analysis


def _analyzed(original: nn.Module, example: Any, *, compiled: bool) -> Analysis:
    model, folded = without_parametrizations(original)
    captured = _captured(model, example)
    state = couple(captured, rule_of)
    base: list[dict[str, Any]] = []
    weights = computed_weights(captured)
    notes = ["the result is not compiled: torch.compile was taken off, and may be put on again"] * compiled
    notes += [f"folded into plain weights first: {', '.join(folded)}"] if folded else []
    if weights:
        model, base = fold_computed(model, captured, state, numbers_per_sample(model, captured), weights)
        if not any(p.is_meta for p in model.parameters()) and (
            other := mistaken(original, model, captured.example)
        ):
            raise SurgeryError(f"weights that forward computes could not be folded: {other}")
        notes.append(f"{len(weights)} weights that forward computes were folded first, in the captured graph")
        captured = _captured(model, example)
        state = couple(captured, rule_of)
    if captured.reads:
        lines = ", ".join(dict.fromkeys(str(read) for read in captured.reads))
        notes.append(f"control flow depends on values and was fixed as all inputs tried take it: {lines}")
    settle(state)
    groups = build_groups(state)
    layers = tuple(_layers(model, captured, state, groups))
    return Analysis(model, captured, state, tuple(groups), layers, tuple(notes), folded, tuple(base))


def _captured(model: nn.Module, example: Any) -> Capture:
    captured = capture(model, example, known=lambda target: rule_of(target) is not None)
    settle_shapes(model, captured)
    return captured


def with_groups(analysis: Analysis, groups: list[Group]) -> Analysis:
    """Return the analysis with these groups alone; layers of those that are dropped say why they cannot be cut."""
    left = {(group.layers, group.structure) for group in groups}
    gone = [group for group in analysis.groups if (group.layers, group.structure) not in left]
    dropped = {layer for group in gone for layer in group.layers}
    now = _layers(analysis.model, analysis.captured, analysis.couplings, groups)
    layers = tuple(b if b.name in dropped else a for a, b in zip(analysis.layers, now, strict=True))
    return replace(analysis, groups=tuple(groups), layers=layers, _counts=analysis._counts, _units=analysis._units)


def only(analysis: Analysis, structures: Iterable[str]) -> Analysis:
    """Return the analysis with the groups of some structures alone (`STRUCTURES`); all of them for none named."""
    wanted = names_of("structures", structures)
    for name in wanted:
        if name not in STRUCTURES:
            raise InputError(
                f"structures: '{name}' is none of {', '.join(STRUCTURES)}.{nearest(name, STRUCTURES)}"
            )
    if not wanted:
        return analysis
    groups = tuple(group for group in analysis.groups if group.structure in wanted)
    if analysis.groups and not groups:
        there = sorted({group.structure for group in analysis.groups})
        raise InfeasibleError(
            f"this model has no {' or '.join(wanted)} that can be removed; it has {', '.join(there)}. "
            "See `prune.analyze(model, example).group_table()`"
        )
    here = {layer for group in groups for layer in group.layers}
    left = {layer: group.structure for group in analysis.groups for layer in group.layers if layer not in here}
    return replace(
        analysis, groups=groups, layers=tuple(_left(row, left.get(row.name)) for row in analysis.layers)
    )


def _left(row: Layer, structure: str | None) -> Layer:
    """Return the row of a layer whose structure was not asked for: it can be cut, and is left."""
    if structure is None or not row.prunable:
        return row
    return replace(
        row, prunable=0, reason=f"these are {structure}, not asked for", remedy=f"structures: {structure}"
    )


def require_groups(analysis: Analysis) -> None:
    """Raise an InfeasibleError that lists the reasons by layer if nothing can be pruned."""
    if analysis.groups:
        return
    reasons = [f"  {name}: {reason}; what would help: {remedy}" for name, reason, remedy in analysis.unprunable]
    raise InfeasibleError(
        "no layer of this model has channels that can be removed:\n" + "\n".join(reasons or ["  it has no layers"])
    )


def _layers(model: nn.Module, captured: Capture, state: Couplings, groups: list[Group]) -> list[Layer]:
    """Return a row for every leaf module that ran, in the order of the graph."""
    free = np.zeros(state.units.count + 1, bool)
    for group in groups:
        free[group.blocks.ravel()] = True
    modules = dict(model.named_modules())
    makes: dict[str, Any] = {}
    for made in state.makes:
        makes.setdefault(layer_name(made.tensor), made)
    rows: dict[str, tuple[str, fx.Node]] = {}
    for node in captured.program.graph.nodes:
        path = module_of(node)
        if node.target is operator.getitem and node.args[1] != 0:
            continue  # of several outputs the first: the last of a recurrent layer is its state
        if path in modules and not list(modules[path].children()) and _has_axes(state, node):
            rows[path] = type(modules[path]).__name__, node
    for name, made in makes.items():
        rows.setdefault(name, (type(modules[name]).__name__ if name in modules else "Parameter", made.node))
    return [
        Layer(name, kind, _axes_of(state, node), name in makes, *_verdict(state, free, makes.get(name)))
        for name, (kind, node) in rows.items()
    ]


def module_of(node: fx.Node) -> str:
    """Return the dotted name of the innermost module that a node belongs to, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _axes_of(state: Couplings, node: fx.Node) -> tuple[Axis, ...]:
    """Return the axes of a node's output, of the first where there are several (a recurrent layer's sequence)."""
    value = state.values[node]
    first = next((out for out in value if isinstance(out, list)), value)
    return tuple(first)


def _has_axes(state: Couplings, node: fx.Node) -> bool:
    value = state.values.get(node)
    return isinstance(value, list) and bool(value) and isinstance(value[0], np.ndarray)


def _verdict(state: Couplings, free: Keep, made: Any) -> tuple[int, str, str]:
    """Return (prunable channels, reason why none, remedy) of what a layer makes."""
    if made is None:
        return 0, "", ""
    factors = state.units.factors(made.units)
    prunable = int((free[np.maximum(factors, 0)] & (factors >= 0)).any(axis=1).sum())
    if prunable:
        return prunable, "", ""
    # of an axis split into blocks and places, the last factor tells most: blocks seldom go anyway
    for index in reversed(range(factors.shape[1])):
        column = factors[:, index]
        reasons = state.units.pinned(column if index == 0 else column[column != -1])  # -1 pads
        if (reasons >= 0).any():
            reason = state.units.reasons[int(np.bincount(reasons[reasons >= 0]).argmax())]
            return 0, reason.text, reason.remedy
    return 0, "its channels are coupled to nothing that can be cut", "a layer that reads them"
