"""Which units of a group are alike: by the weights that make them, or by what the next layer reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from paretune.data import kept_random_state
from paretune.errors import DataError
from paretune.prune._analysis import Analysis
from paretune.prune._couplings.couplings import arguments
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.parts import Part, arranged, arranged_samples, makers, parts_of, tensor_of
from paretune.prune._evidence.batches import reader
from paretune.prune._evidence.collect import Run, input_of
from paretune.prune._float64 import in_float64

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """The units of one group, compared."""

    similarity: Values
    """(n, n), the cosine of their weights or the correlation of what is read of them."""
    scale: Values
    """(n, n): [i, j] times what unit j gives is nearest to what unit i gives, by least squares."""
    joined: NDArray[np.bool_]
    """(n, n): which can be compared: the same layers make them."""


def importance_of(analysis: Analysis, group: Group) -> Values:
    """Return the mean absolute weight of every unit of a group, (n,): the smallest goes first."""
    total, count = np.zeros(group.blocks.size), np.zeros(group.blocks.size)
    for part in parts_of(analysis.couplings, [group], makers([group])):
        weight = arranged(part, tensor_of(analysis.model, part.slice.tensor).detach(), matrix=True)
        rows = in_float64(weight.abs()).flatten(1)
        np.add.at(total, part.units, rows.sum(1).cpu().numpy())
        np.add.at(count, part.units, rows.shape[1])
    return total / np.maximum(count, 1)


def by_weights(analysis: Analysis, group: Group) -> Likeness:
    """Compare the weights that make the units, with their biases and what a batch norm behind makes of both.

    A unit is the function x -> slope (w x + b - mean) + shift; units whose weights are the same but for a positive
    factor give the same but for that factor, also behind a ReLU. A depthwise convolution reads the unit that it
    makes: the two layers make one function, of the products of their weights, so that inner products multiply.
    """
    count = group.blocks.size
    inner = torch.zeros(count, count, dtype=torch.float64)
    made: list[NDArray[np.bool_]] = []
    alone = True
    for where in makers([group]):
        depthwise = _is_depthwise(where.node) and len(made) > 0 and alone
        for piece in parts_of(analysis.couplings, [group], [where]):
            rows, shift = _function(analysis, piece)
            rows, shift = _spread(rows, piece, count), _spread(shift, piece, count)
            own = rows @ rows.T
            inner = _product(inner, own) if depthwise else inner + own
            inner = inner + shift @ shift.T
            made.append(np.isin(np.arange(count), piece.units))
            alone = alone and (depthwise or len(made) == 1)
    length = inner.diagonal().clamp_min(0).sqrt().clamp_min(1e-30)
    cosine = (inner / length[:, None] / length).clamp(-1, 1)
    scale = cosine.clamp_min(0) * length[:, None] / length  # the projection of i onto j
    pattern = np.stack(made)
    joined = (pattern[:, :, None] == pattern[:, None, :]).all(0)
    return Likeness(cosine.numpy(), scale.numpy(), joined)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return products that are positive only where both are: a ReLU between two layers tells a unit from
    minus it."""
    both = (first > 0) & (second > 0)
    return torch.where(both, first * second, -(first * second).abs())


def _is_depthwise(node: fx.Node) -> bool:
    given = arguments(node)
    weight = given.get("weight")
    groups = given.get("groups", 1)
    return isinstance(weight, fx.Node) and groups > 1 and tuple(weight.meta["val"].shape[:2]) == (groups, 1)


def _function(analysis: Analysis, part: Part) -> tuple[Tensor, Tensor]:
    """Return what a layer and the batch norm behind it make of what they read: (n, r) weights, (n, 1) or (n,
    r) shift."""
    rows = in_float64(arranged(part, tensor_of(analysis.model, part.slice.tensor).detach(), matrix=True)).flatten(
        1
    )
    rows, bias = rows.cpu(), _bias(analysis, part)
    shift = torch.zeros(len(rows), 1, dtype=torch.float64) if bias is None else bias.cpu()
    norm = _norm_behind(analysis, part.slice.node)
    if norm is None or part.blocks > 1 or part.positions.shape[1] > 1:
        return rows, shift
    slope, mean, added = (values[part.positions[:, 0]][:, None] for values in norm)
    return rows * slope, slope * (shift - mean) + added


def _spread(rows: Tensor, part: Part, count: int) -> Tensor:
    """Return (count, columns) with the rows of a part at its units, zero elsewhere."""
    out = torch.zeros(count, rows.shape[1], dtype=torch.float64)
    out[torch.from_numpy(part.units)] = rows.cpu()
    return out


def _bias(analysis: Analysis, part: Part) -> Tensor | None:
    """Return (n, r) what a layer adds to the units of a part."""
    name = part.slice.tensor.rpartition(".")[0] + ".bias"
    axes = analysis.couplings.tensors.get(name.lstrip("."))
    if part.blocks > 1 or axes is None or len(axes) != 1 or len(axes[0]) != part.slice.units.shape[-1]:
        return None
    values = in_float64(tensor_of(analysis.model, name.lstrip(".")).detach())
    return values[part.positions.to(values.device)]


def _norm_behind(analysis: Analysis, layer: fx.Node) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return slope, mean and shift of the batch norm that reads a layer, (channels,) each, in float64."""
    names = analysis.couplings.parameters
    for node in layer.users:
        given = arguments(node)
        if operator_of(node) != "batch_norm" or given.get("input") is not layer:
            continue
        found = {
            name: in_float64(tensor_of(analysis.model, names[given[name]]).detach()).cpu()
            for name in ("weight", "bias", "running_mean", "running_var")
            if isinstance(given.get(name), fx.Node) and given[name] in names
        }
        if "running_mean" not in found or "running_var" not in found:
            return None
        mean, plain = found["running_mean"], torch.ones_like(found["running_mean"])
        slope = found.get("weight", plain) / (found["running_var"] + given["eps"]).sqrt()
        return slope, mean, found.get("bias", torch.zeros_like(mean))
    return None


class Moments:
    """Sums over rows of what is read of the units of one group."""

    def __init__(self, count: int) -> None:
        self.rows = 0
        self.total = torch.zeros(count, dtype=torch.float64)
        self.product = torch.zeros(count, count, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in (rows, units)."""
        rows = in_float64(rows).cpu()
        if not bool(rows.isfinite().all()):
            raise DataError("prune.neighbours: what layers read of the data is not finite: look for NaN in them")
        self.rows += len(rows)
        self.total += rows.sum(0)
        self.product += rows.T @ rows

    def likeness(self, joined: NDArray[np.bool_]) -> Likeness:
        """Return the correlation of the units: 1 of two that never vary, 0 of one that varies and one not."""
        mean = self.total / self.rows
        covariance = self.product / self.rows - mean[:, None] * mean
        variance = covariance.diagonal().clamp_min(0)
        still = variance <= 1e-12 * (self.product.diagonal() / self.rows).clamp_min(1e-300)
        deviation = torch.where(still, torch.ones_like(variance), variance.sqrt())
        correlation = (covariance / deviation[:, None] / deviation).clamp(-1, 1)
        correlation[still] = correlation[:, still] = 0.0
        correlation[still[:, None] & still] = 1.0
        scale = self.product / self.product.diagonal().clamp_min(1e-300)
        return Likeness(correlation.numpy(), scale.numpy(), joined)


def by_activations(
    analysis: Analysis, groups: Sequence[Group], data: Any, samples: int | None, seed: int
) -> dict[int, Moments]:
    """Return what the first layer that reads all units of a group reads of them, by the group's place in the list.

    A group of which no layer reads all units, one number each at every position, is left out.
    """
    state = analysis.couplings
    run = Run(analysis.graph, lambda tensor: tensor.detach())
    found: dict[int, Moments] = {}
    for where in state.reads:
        read = input_of(state, where)
        if read is None or where.node.graph is not analysis.captured.program.graph:
            continue
        for piece in parts_of(state, groups, [where]):
            every = np.arange(groups[piece.group].blocks.size)
            if piece.group in found or piece.blocks > 1 or not np.array_equal(piece.units, every):
                continue
            found[piece.group] = Moments(len(piece.units))
            look = partial(_look, part=piece, axis=read[1], into=found[piece.group])
            run.before[where.node.name].append((read[0].name, look))
    with kept_random_state(), torch.no_grad():
        for inputs, _ in reader(analysis, data, samples, seed)():
            run.call(inputs)
    if found and not all(moments.rows for moments in found.values()):
        raise DataError("prune.neighbours: data yields no batch; give more")
    return found


def _look(given: Any, value: Tensor, *, part: Part, axis: int, into: Moments) -> None:
    values = arranged_samples(part, value.movedim(axis, 1))  # (samples, n, [r,] *positions)
    into.add(values.movedim(1, -1).reshape(-1, values.shape[1]))
