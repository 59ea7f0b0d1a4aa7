"""One-shot repair: after a cut, the weights that stay make up for what went, in closed form.

No labels, no gradient of a loss, no training: every layer that reads removed channels, or what such a layer gives,
gets the weights W and the intercept c with which, on what it reads in the cut model, it gives best what it gave in
the whole model,

    min over W, c of  sum over rows |y_whole - W x_kept - c|^2 + ridge * |W - W_cut|^2,

a ridge regression on a few hundred calibration inputs (`ridge`). Layers are repaired in the order of the graph,
each on the output of those before it, so that it makes up for what they could not. Where a layer's output is
added to another branch, what is rebuilt is the sum: the error that the other branch carries is taken out here
too. No output of a layer is left with a larger error on the rows it was fitted on than it had after the cut.

A batch norm's running mean takes the intercept where a layer has no bias. Then the batch norm is given the
statistics of what it reads now, and a scale and shift that leave its output as it is, so that training starts from
what was repaired (`norms`). To recalibrate it without them would undo a part of the repair: least squares shrinks
what it cannot predict, and the old variance keeps it so.

Not repaired: attention scores, which no weight reads; recurrent layers, weights that are used more than once and
masked weights, whose zeros stay zero; they are named.

Sources: Zhang and Yang, "CORP: Closed-Form One-shot Representation-Preserving Structured Pruning for
Transformers", arXiv:2602.05243 (ridge regression, folded into the weights); He, Zhang and Sun, "Channel Pruning
for Accelerating Very Deep Neural Networks", ICCV 2017, sections 3.2 and 3.3 (layer after layer; residual sums),
arXiv:1707.06168.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from paretune.cuts import Cuts, cut_tensor
from paretune.data import kept_random_state
from paretune.errors import InputError
from paretune.masks import masked
from paretune.prune._capture.given import unchanged
from paretune.prune._couplings.couplings import Couplings, Slice
from paretune.prune._couplings.couplings import arguments as named
from paretune.prune._couplings.groups import layer_name
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.parts import tensor_of
from paretune.prune._cut import Pruned, Selection, keep_of
from paretune.prune._evidence.batches import reader
from paretune.prune._repair.matrices import Matrix, NoMatrixError, matrix_of, only_use
from paretune.prune._repair.norms import Norm, Spread, norms_behind, rescale, settle
from paretune.prune._repair.ridge import WIDEST, Ridge
from paretune.prune._repair.twins import Join, Twins
from paretune.prune._surgery.surgery import Keep, blocked, kept

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

SAMPLES = 512
"""Calibration samples that are enough for most; four times as many gave ResNet-20 0.3 points more."""
ROWS = 2**16
"""Rows of calibration data that a layer is fitted on at most: 16 or more for each of its inputs."""


@dataclass(frozen=True)
class Repair:
    """What was done to one layer."""

    layer: str
    before: float
    """Squared error of its output after the cut, as a fraction of the variance that it should have."""
    after: float
    ridge: float
    """The ridge that was used, as a fraction of its inputs' mean variance; infinity where the weights stayed."""


@dataclass(frozen=True)
class Repaired:
    """What was done, layer by layer, in the order of the graph."""

    layers: tuple[Repair, ...]
    left: tuple[tuple[str, str], ...]
    """(layer, why it could not be repaired) of layers that read removed channels."""
    samples: int
    """Calibration samples that were used."""


def repair(
    analysis: Analysis,
    selection: Selection,
    pruned: Pruned,
    data: Any,
    *,
    samples: int | None = SAMPLES,
    ridge: float | None = None,
    every: bool = True,
    seed: int = 0,
) -> Repaired:
    """Repair the weights of a pruned model in place.

    analysis, selection, pruned: of the whole model, as `analyze`, `select` and `cut` gave them.
    data: what a Task takes as `train`, or an iterator of batches; labels are not looked at.
    samples: at most so many, drawn by `seed`, or the first batches of an iterator that hold as many; None: all.
    ridge: a fraction of the mean variance of a layer's inputs; None chooses it for each layer, by the error on the
        half of the data that was not used.
    every: repair also the layers behind a cut that lost no input themselves, for the error that reaches them
        (ResNet-20 with its residual sums kept whole: 0.3 points more); False takes half the time.
    """
    keep = keep_of(analysis, selection)
    _check_pruned(analysis, pruned)
    layers, left = _layers(analysis, keep, every=every)
    with kept_random_state(), unchanged(analysis.model):
        twins = Twins(analysis, keep, [inputs for inputs, _ in reader(analysis, data, samples, seed)()])
    draw = torch.Generator().manual_seed(seed)
    norms = norms_behind(analysis, [layer.node for layer in layers])
    order = {node: index for index, node in enumerate(analysis.captured.program.graph.nodes)}
    steps: list[_Layer | Norm] = [*layers, *norms]
    rows = []
    with torch.no_grad(), unchanged(analysis.model):
        for each in sorted(steps, key=lambda each: order[each.node]):
            if isinstance(each, Norm):
                settle(twins, each)
            else:
                rows.append(_repaired(twins, each, ridge, draw))
        _keep_lengths(twins, layers, norms)
    _hand_over(twins, layers, norms, pruned)
    odd = "what it reads or gives on the data is not finite: look for NaN in them"
    left += [(row.layer, odd) for row in rows if not math.isfinite(row.before)]
    return Repaired(tuple(row for row in rows if math.isfinite(row.before)), tuple(left), twins.samples)


def _check_pruned(analysis: Analysis, pruned: Pruned) -> None:
    cuts = getattr(pruned, "cuts", None)
    if not isinstance(cuts, Cuts):
        raise InputError(f"prune.repair takes what prune.cut gives, and got a {type(pruned).__name__}")
    tensors = analysis.model.state_dict()
    if any(name in tensors and tuple(tensors[name].shape) != shape for name, shape in cuts.shapes.items()):
        raise InputError(
            "prune.repair: the pruned model was cut from another model than the one that was analysed"
        )


@dataclass(frozen=True)
class _Layer:
    """A layer to be repaired."""

    weight: fx.Node
    """The node that gives its weights."""
    tensor: str
    matrix: Matrix
    outs: Tensor
    """(blocks, out) bool: the outputs that stay, equally many in each block."""
    ins: Tensor
    """(blocks, in) bool: the inputs that stay, likewise."""
    rows: tuple[tuple[int, Tensor], ...]
    """(axis of its output, which positions stay) of other axes than that of the outputs, where some go."""
    home: _Home | None
    join: Join | None

    @property
    def node(self) -> fx.Node:
        """The node that computes it."""
        return self.matrix.node


@dataclass(frozen=True)
class _Home:
    """Where the intercept of a layer goes: a vector of the model, and with which sign."""

    vector: fx.Node
    tensor: str
    sign: int


def _layers(analysis: Analysis, keep: Keep, *, every: bool) -> tuple[list[_Layer], list[tuple[str, str]]]:
    """Return the layers to repair in the order of the graph, and those that cannot be, with the reason."""
    state, graph = analysis.couplings, analysis.captured.program.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    reads = sorted((read for read in state.reads if read.node in order), key=lambda read: order[read.node])
    lost = {id(read) for read in reads if not kept(keep, read.units).all()}
    first = next((order[read.node] for read in reads if id(read) in lost), len(order))
    found: dict[fx.Node, tuple[Slice, fx.Node, Matrix, Tensor]] = {}
    left: dict[str, str] = {}
    sparse = masked(analysis.model)
    for read in reads:
        if read.tensor in sparse:
            if id(read) in lost:
                left[layer_name(read.tensor)] = "its weights are masked, and zeros stay zero"
        elif id(read) in lost or (every and order[read.node] > first):
            try:
                weight, matrix = only_use(state, graph, read.tensor), matrix_of(state, read)
                found[read.node] = read, weight, matrix, _even(matrix.weight(_stays(analysis, keep, read.tensor)))
            except NoMatrixError as reason:
                if id(read) in lost:
                    left.setdefault(layer_name(read.tensor), str(reason))
    layers, later = [], set(found)
    for node, (read, weight, matrix, stays) in found.items():
        later.discard(node)
        home, join = _home(state, graph, matrix), _join(state, node, later)
        rows = _rows_that_stay(state, keep, matrix)
        layers.append(_Layer(weight, read.tensor, matrix, stays.any(2), stays.any(1), rows, home, join))
    return layers, list(left.items())


def _even(stays: Tensor) -> Tensor:
    blocks = stays.any(2).any(1)
    for axis in (1, 2):
        if len(set(stays[blocks].any(axis).sum(1).tolist())) > 1:
            raise NoMatrixError("its blocks keep unlike numbers of channels")
    return stays


def _rows_that_stay(state: Couplings, keep: Keep, matrix: Matrix) -> tuple[tuple[int, Tensor], ...]:
    axes = enumerate(state.values[matrix.node])
    found = [(i, torch.from_numpy(kept(keep, axis))) for i, axis in axes if i not in matrix.channels]
    return tuple((i, places) for i, places in found if not bool(places.all()))


def _stays(analysis: Analysis, keep: Keep, tensor: str) -> Tensor:
    """Return which numbers of a tensor stay."""
    state, grouped = analysis.couplings, blocked(analysis.couplings)
    shape = tensor_of(analysis.model, tensor).shape
    out = torch.ones(shape, dtype=torch.bool)
    for index, axis in enumerate(state.tensors[tensor]):
        places = torch.from_numpy(kept(keep, grouped.get((tensor, index), axis)))
        if places.dim() == 2:  # every block of axis 0 reads other channels
            places = places.repeat_interleave(shape[0] // len(places), dim=0)
            out &= places.reshape(shape[0], *(-1 if i == index else 1 for i in range(1, len(shape))))
        else:
            out &= places.reshape([-1 if i == index else 1 for i in range(len(shape))])
    return out


def _home(state: Couplings, graph: fx.Graph, matrix: Matrix) -> _Home | None:
    """Return where an intercept can go: a bias, the mean of a batch norm behind, a vector that is added."""
    if matrix.bias is not None:
        return _at_home(state, graph, matrix.bias, 1)
    if len(matrix.channels) != 1 or len(matrix.node.users) != 1:
        return None
    (axis,), (behind,) = matrix.channels, matrix.node.users
    operator = operator_of(behind)
    given = named(behind) if operator in ("batch_norm", "add") else {}
    if operator == "batch_norm" and axis == 1 and not given["training"]:
        return _at_home(state, graph, given["running_mean"], -1)
    if operator == "add" and given["alpha"] == 1:
        vector = given["other"] if given["self"] is matrix.node else given["self"]
        if (
            isinstance(vector, fx.Node)
            and vector.meta["val"].dim() == 1
            and axis == matrix.node.meta["val"].dim() - 1
        ):
            return _at_home(state, graph, vector, 1)
    return None


def _at_home(state: Couplings, graph: fx.Graph, vector: Any, sign: int) -> _Home | None:
    if not isinstance(vector, fx.Node) or vector not in state.parameters:
        return None
    try:
        return _Home(only_use(state, graph, state.parameters[vector]), state.parameters[vector], sign)
    except NoMatrixError:
        return None


_PASSES = {
    *(
        "batch_norm",
        "dropout",
        "feature_dropout",
        "mul",
        "div",
        "add",
        "sub",
        "neg",
        "clone",
        "contiguous",
        "alias",
    ),
    *("view", "reshape", "_unsafe_view", "permute", "transpose", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("roll", "slice"),
}
"""Operators that scale, shift or move single numbers, where all else that they take is a tensor of the model."""


def _join(state: Couplings, node: fx.Node, later: set[fx.Node]) -> Join | None:
    """Return the residual sum that a layer's output goes into, unless the other branch is still to be repaired."""
    chain: list[str] = []
    before = node
    while len(before.users) == 1:
        user = next(iter(before.users))
        operator = operator_of(user)
        others = [n for n in user.all_input_nodes if n is not before and n not in state.parameters]
        if operator == "add" and len(others) == 1 and named(user).get("alpha", 1) == 1:
            (other,) = others
            alike = other.meta["val"].shape == before.meta["val"].shape
            return Join(tuple(chain), user.name, other.name) if alike and not _leads(later, other) else None
        if others or operator not in _PASSES or named(user).get("training") or named(user).get("train"):
            return None
        chain.append(user.name)
        before = user
    return None


def _leads(sources: set[fx.Node], node: fx.Node) -> bool:
    """Tell whether a value depends on one of these nodes."""
    seen, stack = {node}, [node]
    while stack:
        current = stack.pop()
        if current in sources:
            return True
        new = set(current.all_input_nodes) - seen
        seen |= new
        stack += new
    return False


def _repaired(twins: Twins, layer: _Layer, ridge: float | None, draw: torch.Generator) -> Repair:
    """Fit one layer on all batches, and give it its new weights."""
    fit, wanted = Ridge(intercept=layer.home is not None), Spread()
    for x, y, lack in _rows(twins, layer, draw):
        fit.add(x, lack)
        wanted.add(y + lack)
    change, shift, used = fit.solve(ridge)
    weights = _Weights(twins, layer)
    change, shift = weights.rounded(change, shift)
    before, after = fit.error(torch.zeros_like(change), torch.zeros_like(shift)), fit.error(change, shift)
    better = after < before  # False where either is not finite
    weights.write(better)
    total = float(wanted.variance().sum()) or 1.0
    left = float(torch.where(better, after, before).sum())
    return Repair(layer_name(layer.tensor), float(before.sum()) / total, left / total, used)


def _rows(twins: Twins, layer: _Layer, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for every batch, of some rows that are drawn: what is read, what is given, what it lacks."""
    inputs = int(layer.ins.sum(1).max())
    share = -(-(WIDEST if inputs > WIDEST else ROWS) // twins.batches)
    for stop in twins.stop_at(layer.matrix.node):
        given, read = stop.read(layer.matrix.source)
        gives, lacks = stop.missing(layer.join)
        which = _drawn(layer, gives, share, draw)
        y, lack = (_picked(layer.matrix.outputs(value)[:, which], layer.outs) for value in (gives, lacks))
        yield _picked(layer.matrix.inputs(given, read, which), layer.ins), y, lack


def _drawn(layer: _Layer, output: Tensor, share: int, draw: torch.Generator) -> Tensor:
    """Return the numbers of the rows to use, in order."""
    stays = torch.ones(output.shape, dtype=torch.bool)
    for axis, places in layer.rows:
        stays &= places.reshape([-1 if i == axis else 1 for i in range(output.dim())])
    rows = layer.matrix.outputs(stays).any(2).all(0).nonzero()[:, 0]
    drawn = torch.randperm(len(rows), generator=draw)[:share]
    return rows[drawn.sort().values].to(output.device)


def _picked(values: Tensor, which: Tensor) -> Tensor:
    """Return the columns (b, n, kept) of (b, n, all) that stay, of the blocks that stay."""
    which = which.to(values.device)
    return torch.stack([block[:, mine] for block, mine in zip(values, which, strict=True) if bool(mine.any())])


class _Weights:
    """The numbers of a layer that a repair may change, in the tensors of the cut model."""

    def __init__(self, twins: Twins, layer: _Layer) -> None:
        self.layer = layer
        self.tensor = twins.own(layer.weight)
        device = self.tensor.device
        every = torch.arange(self.tensor.numel(), device=device).reshape(self.tensor.shape)
        places = layer.matrix.weight(every)
        self.places = _picked(_picked(places, layer.ins).transpose(1, 2), layer.outs).transpose(1, 2)
        self.vector = None if layer.home is None else twins.own(layer.home.vector)
        entries = torch.arange(layer.outs.numel(), device=device).reshape(len(layer.outs), 1, -1)
        self.entries = _picked(entries, layer.outs)[:, 0]

    def rounded(self, change: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return a change of the weights and of the intercept as it is once the tensors hold it in their type."""
        self.new = _sum(self.tensor.flatten()[self.places], change)
        change = self.new.to(change) - self.tensor.flatten()[self.places].to(change)
        if self.vector is None or self.layer.home is None:
            return change, shift
        old, sign = self.vector[self.entries], self.layer.home.sign
        self.new_vector = _sum(old, sign * shift)
        return change, sign * (self.new_vector.to(shift) - old.to(shift))

    def write(self, outputs: Tensor) -> None:
        """Put the new numbers of some outputs, (blocks, out) bool, in their place."""
        outputs = outputs.to(self.tensor.device)
        self.tensor.flatten()[self.places[outputs]] = self.new[outputs]
        if self.vector is not None:
            self.vector[self.entries[outputs]] = self.new_vector[outputs]


def _sum(old: Tensor, change: Tensor) -> Tensor:
    """Return a sum that is made in double precision, in the type and place of the first."""
    return (old.to(change) + change).to(old)


def _keep_lengths(twins: Twins, layers: list[_Layer], norms: list[Norm]) -> None:
    """Give weights that nothing but a batch norm follows the length that they had before the repair."""
    by_source = {norm.source: norm for norm in norms}
    for layer in layers:
        norm, bias = by_source.get(layer.node), layer.matrix.bias
        if norm is None or len(layer.node.users) > 1 or (bias is not None and layer.home is None):
            continue
        places = _Weights(twins, layer).places.cpu()
        old, new = tensor_of(twins.analysis.model, layer.tensor), twins.own(layer.weight)
        factor = float(old.cpu().flatten()[places].norm() / new.cpu().flatten()[places].norm())
        if math.isfinite(factor) and factor > 0:
            rescale(twins, norm, factor, [layer.weight, *([layer.home.vector] if bias and layer.home else [])])


def _hand_over(twins: Twins, layers: list[_Layer], norms: list[Norm], pruned: Pruned) -> None:
    """Give the pruned model what of the repaired tensors stays."""
    names = {layer.weight.name: layer.tensor for layer in layers}
    names |= {layer.home.vector.name: layer.home.tensor for layer in layers if layer.home is not None}
    names |= {node.name: norm.tensors[key] for norm in norms for key, node in norm.vectors.items()}
    with torch.no_grad():
        for node, name in names.items():
            if node not in twins.tensors:
                continue  # it was not changed
            tensor_of(pruned.model, name).copy_(_cut(twins.tensors[node], name, pruned.cuts))


def _cut(tensor: Tensor, name: str, cuts: Cuts) -> Tensor:
    for cut in cuts.cuts:
        tensor = cut_tensor(tensor, cut) if cut.tensor == name else tensor
    return tensor
