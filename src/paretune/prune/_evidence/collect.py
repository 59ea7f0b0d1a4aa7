"""The passes that collect evidence: the captured graph is run node by node, and looked at while it runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from paretune.data import (
    Batch,
    kept_random_state,
    map_tensors,
    shapes_of,
    tensors_of,
)
from paretune.errors import DataError, InputError, ParetuneError, RunError
from paretune.prune._capture.capture import in_words
from paretune.prune._couplings.couplings import Couplings, Slice
from paretune.prune._couplings.couplings import arguments as named
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.parts import (
    NORMS,
    Part,
    arranged,
    arranged_moment,
    arranged_rows,
    arranged_samples,
    tensor_of,
)
from paretune.prune._evidence.batches import reader, size_of
from paretune.prune._float64 import in_float64
from paretune.prune.scores._sparsegpt import inverse_diagonal

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

CHUNK = 2**24
"""Numbers of unfolded inputs that are held at once."""
POSITIONS = 128
"""Of what a layer multiplies at more positions than this, its second moment takes so many of each sample, drawn:
of 512 samples 2**16 rows, 14 or more for each column of the widest layers that networks have."""

Values = NDArray[np.float64]
Scored = Callable[[Part, Mapping[str, Tensor]], Values]
"""(part, evidence by name) -> (n,) scores."""
Criterion = Callable[[Any, Any], Tensor]
Look = Callable[[Mapping[str, Any], Any], None]
"""(a node's arguments by name, the value that it reads) -> nothing."""


class Collector:
    """Collects what a score names for every part, and scores it: batch by batch, or all at the end."""

    def __init__(self, analysis: Analysis, parts: Sequence[Part], names: Sequence[str], scored: Scored) -> None:
        self.analysis, self.parts, self.names, self.scored = analysis, parts, names, scored
        self.state = analysis.couplings
        self.by_slice: dict[int, list[Part]] = defaultdict(list)
        for part in parts:
            self.by_slice[id(part.slice)].append(part)
        self.slices = list({id(part.slice): part.slice for part in parts}.values())
        self.count = 0
        """Samples seen."""
        self.sums: dict[int, Values] = {}
        """Of scores of samples: the sum over batches of samples * score, by part."""
        self.totals: dict[str, dict[int, Tensor]] = defaultdict(dict)
        """Evidence that is summed over samples, by name and slice."""
        self._draw = torch.Generator()
        self._leaves: dict[int, Tensor] = {}
        """What stands in the graph for the tensors that parts lie on, by the tensor."""
        self._held: list[tuple[Tensor, int, list[Part]]] = []
        """(what a layer gave in this batch, the axis of its channels, the parts on it)."""

    def values(self) -> list[Values | None]:
        """Return the scores of every part; None where a part has not all the evidence."""
        if any(name in ("output", "output_grad", "activation") for name in self.names):
            count = max(1, self.count)
            return [self.sums[id(p)] / count if id(p) in self.sums else None for p in self.parts]
        found = [self._evidence(part) for part in self.parts]
        return [
            None if evidence is None else self.scored(part, evidence)
            for part, evidence in zip(self.parts, found, strict=True)
        ]

    def run(self, data: Any, criterion: Criterion | None, samples: int | None, seed: int) -> None:
        """Pass over the data once; twice for `hessian_grad`, which needs the whole gradient first."""
        batches = reader(self.analysis, data, samples, seed)
        self._draw.manual_seed(seed)
        with kept_random_state():
            if "grad" in self.names or "hessian_grad" in self.names:
                assert criterion is not None
                self._gradients(batches, criterion)
            else:
                self._watch(batches, criterion)
        if not self.count:
            size = "" if self.analysis.numbers is not None else f" of {self.analysis.captured.batch} samples"
            raise DataError(f"prune.channels: data yields no batch{size}, the least that is needed; give more")

    # the passes

    def _gradients(self, batches: Callable[[], Iterator[Batch]], criterion: Criterion) -> None:
        """Sum gradients of the loss by the weights; then, where it is asked for, Hessian times gradient."""
        leaves = self._weights()
        run = Run(self.analysis.graph, self._substitute)
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for inputs, target in batches():
            loss = _loss(criterion, run.call(inputs), target)
            size = size_of(inputs)
            self.count += size
            for sum_, grad in zip(total, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
                if grad is not None:
                    sum_ += size * grad
        self._store("grad", leaves, total)
        if "hessian_grad" not in self.names:
            return
        whole = [sum_ / self.count for sum_ in total]
        product = [torch.zeros_like(leaf) for leaf in leaves]
        for inputs, target in batches():
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                loss = _loss(criterion, run.call(inputs), target)
                grads = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
                used = [g is not None and g.requires_grad for g in grads]
                along = [(g * w).sum() for g, w, u in zip(grads, whole, used, strict=True) if u and g is not None]
                if not along:
                    continue
                second = _second_derivative(torch.stack(along).sum(), leaves)
            for sum_, part in zip(product, second, strict=True):
                if part is not None:
                    sum_ += size_of(inputs) * part
        self._store("hessian_grad", leaves, product)

    def _watch(self, batches: Callable[[], Iterator[Batch]], criterion: Criterion | None) -> None:
        """Run the graph, and look at what layers give or read."""
        run = Run(self.analysis.graph, self._substitute)
        size = 0
        for where in self.slices:
            look: Any
            if "output" in self.names or "output_grad" in self.names:
                place = _output_of(self.state, where)
                if place is not None and self._runs(where):
                    look = self._look_at_output(where, place, lambda: size)
                    run.after[where.node.name].append(look)
            else:
                read = input_of(self.state, where)
                if read is not None and self._runs(where):
                    source, axis = read
                    look = self._look_at_input(where, axis, lambda: size)
                    run.before[where.node.name].append((source.name, look))
        for inputs, target in batches():
            size = size_of(inputs)
            self.count += size
            with torch.set_grad_enabled(criterion is not None):
                output = run.call(inputs)
                if criterion is not None and self._held:  # else no layer has an output that is its own
                    self._score_gradients(_loss(criterion, output, target), size)

    def flow(self) -> None:
        """Run the graph on ones, with every weight positive, and keep the gradient of the flow's logarithm."""
        leaves = self._weights(lambda tensor: in_float64(tensor.detach()).abs())
        run = _Flow(self.analysis.graph, self._substitute_positive)
        ones = map_tensors(
            lambda t: torch.ones_like(in_float64(t)) if t.is_floating_point() else t,
            self.analysis.captured.example,
        )
        outputs = [t.sum() for t in tensors_of(run.call(ones)) if t.is_floating_point() and t.requires_grad]
        flow = torch.stack(outputs).sum() if outputs else torch.tensor(0.0)
        amount = float(flow.detach())
        grads = torch.autograd.grad(flow.log(), leaves, allow_unused=True) if 0 < amount < math.inf else ()
        if not grads or not all(bool(torch.isfinite(g).all()) for g in grads if g is not None):
            raise InputError(
                f"synflow: the flow through this model with positive weights is {amount:.3g}, of which no "
                "gradient can be taken; choose another score"
            )
        total = [torch.zeros_like(w) if g is None else g for w, g in zip(leaves, grads, strict=True)]
        self._store("flow_grad", leaves, total)

    # what is looked at

    def _look_at_output(self, where: Slice, axis: int, size: Callable[[], int]) -> Callable[[Any], Any]:
        parts = self.by_slice[id(where)]
        for part in parts:
            self.sums[id(part)] = np.zeros(len(part.positions))

        def look(value: Any) -> Any:
            if "output_grad" not in self.names:
                for part in parts:
                    self._add(part, size(), {"output": value.movedim(axis, 1)})
                return value
            value = value if value.requires_grad else value.detach().requires_grad_()
            self._held.append((value, axis, parts))
            return value.clone()  # what follows may write into it

        return look

    def _score_gradients(self, loss: Tensor, size: int) -> None:
        """Score what layers gave in this batch, with the loss's gradient; what the loss does not see adds 0."""
        values = [value for value, _, _ in self._held]
        grads = torch.autograd.grad(loss, values, allow_unused=True) if values else ()
        for (value, axis, parts), grad in zip(self._held, grads, strict=True):
            if grad is not None:
                seen = {"output": value.detach().movedim(axis, 1), "output_grad": grad.movedim(axis, 1)}
                for part in parts:
                    self._add(part, size, seen)
        self._held.clear()

    def _look_at_input(self, where: Slice, axis: int, size: Callable[[], int]) -> Look:
        parts = self.by_slice[id(where)]
        if "activation" in self.names:
            for part in parts:
                self.sums[id(part)] = np.zeros(len(part.positions))
        moment = "hessian" in self.names or "inverse_diagonal" in self.names

        def look(given: Mapping[str, Any], value: Any) -> None:
            value = value.detach()
            if "activation" in self.names:
                for part in parts:
                    self._add(part, size(), {"activation": value.movedim(axis, 1)})
                return
            blocks = np.atleast_2d(where.units).shape[0]
            for rows in unfolded(where.node, given, value, axis):
                rows = rows.reshape(len(rows), blocks, -1).transpose(0, 1)  # (blocks, rows, block's inputs)
                if moment:
                    self._add_total("hessian", where, self._moment(where, rows, size()))
                if "input_norm" in self.names:
                    self._add_total("input_norm", where, rows.square().sum(dim=1))

        return look

    def _moment(self, where: Slice, rows: Tensor, size: int) -> Tensor:
        """Return (blocks, inputs, inputs) the sum over rows of their products, from some where they are many.

        rows: (blocks, rows, inputs), all those of `size` samples, or those of some samples of a convolution.
        """
        blocks, count, width = rows.shape
        shape = where.node.meta["val"].shape if _convolves(where.node) else ()
        positions = math.prod(shape[2:]) if len(shape) > 2 else count // max(1, size)
        if positions > POSITIONS and count % positions == 0:
            drawn = torch.randperm(positions, generator=self._draw)[:POSITIONS].sort().values.to(rows.device)
            rows = rows.reshape(blocks, -1, positions, width)[:, :, drawn].reshape(blocks, -1, width)
            rows = rows * (positions / POSITIONS) ** 0.5
        return rows.transpose(1, 2) @ rows

    def _add(self, part: Part, size: int, values: Mapping[str, Tensor]) -> None:
        evidence = {n: arranged_samples(part, v) for n, v in values.items() if n in self.names}
        self.sums[id(part)] += size * self.scored(part, evidence | self._at_hand(part))

    def _add_total(self, name: str, where: Slice, value: Tensor) -> None:
        totals = self.totals[name]
        totals[id(where)] = totals[id(where)] + value if id(where) in totals else value

    # what is handed to the score

    def _at_hand(self, part: Part) -> dict[str, Tensor]:
        tensor = tensor_of(self.analysis.model, part.slice.tensor).detach()
        return {n: self._like_weight(part, tensor) for n in ("weight", "bn_weight") if n in self.names}

    def _like_weight(self, part: Part, tensor: Tensor) -> Tensor:
        reads = any(name in ("input_norm", "hessian", "inverse_diagonal", "activation") for name in self.names)
        return arranged(part, tensor, matrix=reads and not _convolves(part.slice.node))

    def _evidence(self, part: Part) -> dict[str, Tensor] | None:
        """Return what was summed over the data, as means over samples, arranged for one part."""
        evidence = self._at_hand(part)
        for name in self.names:
            if name in evidence:
                continue
            source = "hessian" if name == "inverse_diagonal" else name
            total = self.totals[source].get(id(part.slice))
            if total is None:
                return None
            evidence[name] = self._arranged(part, name, total)
        if "flow_grad" in evidence and not bool(evidence["flow_grad"].any()):
            return None  # nothing flows here, which says nothing of its worth
        return evidence

    def _arranged(self, part: Part, name: str, total: Tensor) -> Tensor:
        if name == "flow_grad":
            return self._like_weight(part, total)
        mean = total / self.count
        if name in ("grad", "hessian_grad"):
            return self._like_weight(part, mean)
        own = mean[part.block]
        if name == "hessian":
            return arranged_moment(part, own)
        rows = inverse_diagonal(own) if name == "inverse_diagonal" else own.sqrt()
        weight = tensor_of(self.analysis.model, part.slice.tensor)
        kernel = weight.shape[2:] if _convolves(part.slice.node) else ()
        return arranged_rows(part, rows.reshape(part.slice.units.shape[-1], *kernel))

    # the model's tensors

    def _weights(self, copy: Callable[[Tensor], Tensor] = torch.Tensor.detach) -> list[Tensor]:
        """Return one leaf for every tensor that parts lie on; it stands in the graph in the tensor's place."""
        tensors = {id(t): t for t in (tensor_of(self.analysis.model, where.tensor) for where in self.slices)}
        self._leaves = {key: copy(tensor).requires_grad_() for key, tensor in tensors.items()}
        return list(self._leaves.values())

    def _substitute(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._leaves:
            return self._leaves[id(tensor)]
        # a buffer may be written to, by operators that stand in the graph
        return tensor.detach() if isinstance(tensor, torch.nn.Parameter) else tensor.clone()

    def _substitute_positive(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._leaves:
            return self._leaves[id(tensor)]
        if not tensor.is_floating_point():
            return tensor.clone()
        return in_float64(tensor.detach()).abs() if isinstance(tensor, torch.nn.Parameter) else in_float64(tensor)

    def _store(self, name: str, leaves: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
        by_leaf = {id(leaf): total for leaf, total in zip(leaves, totals, strict=True)}
        for where in self.slices:
            tensor = tensor_of(self.analysis.model, where.tensor)
            self.totals[name][id(where)] = by_leaf[id(self._leaves[id(tensor)])]

    def _runs(self, where: Slice) -> bool:
        """Tell whether a node is in the graph that runs: those of auxiliary heads are in train mode's alone."""
        return where.node.graph is self.analysis.captured.program.graph


class Run(fx.Interpreter):
    """Runs a graph with other tensors in its parameters' place, and shows what nodes read and give."""

    def __init__(self, graph: fx.GraphModule, substitute: Callable[[Tensor], Tensor]) -> None:
        super().__init__(graph)
        self.before: dict[str, list[tuple[str, Look]]] = defaultdict(list)
        """By the name of a node: (name of the node that it reads, what to call)."""
        self.after: dict[str, list[Callable[[Any], Any]]] = defaultdict(list)
        """By the name of a node: what to call with its value; what that returns takes the value's place."""
        self._substitute = substitute
        self._by_name = {node.name: node for node in graph.graph.nodes}

    def call(self, inputs: Any) -> Any:
        """Run on inputs as the model takes them: a tensor, a tuple, or a dict of keyword inputs."""
        names = [str(node.target) for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        if isinstance(inputs, Mapping):
            return self.run(*[inputs[name] for name in names])
        return self.run(*(inputs if isinstance(inputs, list | tuple) else [inputs]))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a tensor of the model, or what stands for it."""
        value = self.fetch_attr(target)
        return self._substitute(value) if isinstance(value, Tensor) else value

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and show it."""
        for source, look in self.before.get(n.name, ()):
            look(self.given(n), self.env[self._by_name[source]])
        value = super().run_node(n)
        for change in self.after.get(n.name, ()):
            value = change(value)
        return value

    def given(self, n: fx.Node) -> dict[str, Any]:
        """Return the values of a node's arguments by the names of its operator's schema."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        schema = n.target._schema.arguments  # type: ignore[union-attr]
        return dict(zip([argument.name for argument in schema], args, strict=False)) | dict(kwargs)


class _Flow(Run):
    """Runs in float64 what is linear in each weight: norms only scale, and how attention mixes is taken as given.

    The statistics of a norm would cancel the flow that is measured, and a softmax passes on differences alone.
    """

    def run_node(self, n: fx.Node) -> Any:
        operator = operator_of(n)
        if operator in NORMS:
            value: Any = _scaled(operator, self.given(n))
        elif operator == "scaled_dot_product_attention":
            given = self.given(n)
            value = n.target(**given | {name: given[name].detach() for name in ("query", "key")})  # type: ignore[operator]
        else:
            value = super().run_node(n)
            value = value.detach() if operator in ("softmax", "_softmax") else value
        return map_tensors(lambda t: in_float64(t) if t.dtype.is_floating_point else t, value)


def _scaled(operator: str, given: Mapping[str, Any]) -> Tensor:
    value: Tensor = given["input"]
    scale, shift = given.get("weight"), given.get("bias")
    along = (-1, *[1] * (value.dim() - 2)) if operator not in ("layer_norm", "rms_norm") else None
    if operator == "batch_norm" and given.get("running_var") is not None:
        deviation = (given["running_var"] + given["eps"]).sqrt()
        scale = 1 / deviation if scale is None else scale / deviation
    if scale is not None:
        value = value * (scale if along is None else scale.reshape(along))
    if shift is not None:
        value = value + (shift if along is None else shift.reshape(along))
    return value


def unfolded(node: fx.Node, given: Mapping[str, Any], value: Tensor, axis: int) -> Iterator[Tensor]:
    """Yield (rows, inputs * kernel): what the weights of a layer multiply, a row for each output position.

    value: what the layer reads; axis: that along which it sums. Of a convolution the kernel is inner: the columns
    of one input lie side by side. It is unfolded by the layer's own operator, with kernels that pick one number.
    """
    value = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if not _convolves(node):
        yield value.movedim(axis, -1).reshape(-1, value.shape[axis])
        return
    weight, inputs = given["weight"], value.shape[axis]
    kernel = weight.shape[2:]
    size = math.prod(kernel)
    pick = torch.eye(size, dtype=value.dtype, device=value.device).reshape(size, *kernel)
    pick = pick.repeat(inputs, *[1] * len(kernel))  # (inputs * size, *kernel), the input outermost
    pick = pick.reshape(inputs, size, *kernel) if operator_of(node).startswith("conv_transpose") else pick[:, None]
    how = {**given, "weight": pick, "bias": None, "groups": inputs}
    step = max(1, CHUNK // max(1, size * value[0].numel()))
    for part in torch.split(value, step):
        yield node.target(**{**how, "input": part}).movedim(axis, -1).reshape(-1, inputs * size)  # type: ignore[operator]


def _convolves(node: fx.Node) -> bool:
    return operator_of(node).startswith("conv")


def _output_of(state: Couplings, made: Slice) -> int | None:
    """Return the axis of a node's output along which the channels lie that it makes; None where there is none."""
    return _axis_of(state, state.values.get(made.node), made.units)


def input_of(state: Couplings, read: Slice) -> tuple[fx.Node, int] | None:
    """Return (the node that a layer reads its channels from, the axis along which they lie)."""
    given = named(read.node)
    if operator_of(read.node).startswith("conv_transpose") and given.get("groups") != 1:
        return None
    weight = next((n for n in read.node.all_input_nodes if state.parameters.get(n) == read.tensor), None)
    for name, value in given.items():
        for argument in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(argument, fx.Node) or argument is weight or name in ("hx", "params"):
                continue
            axis = _axis_of(state, state.values.get(argument), read.units.ravel())
            if axis is not None:
                return argument, axis
    return None


def _axis_of(state: Couplings, value: Any, units: NDArray[np.int64]) -> int | None:
    """Return which axis of a value holds these units; None for the first, along which the samples lie."""
    if not isinstance(value, list) or not all(isinstance(axis, np.ndarray) for axis in value):
        return None
    wanted = state.units.find(units)
    axes = [i for i, axis in enumerate(value) if i and np.array_equal(state.units.find(axis), wanted)]
    return axes[0] if axes else None


def _loss(criterion: Criterion, output: Any, target: Any) -> Tensor:
    if target is None:
        raise InputError("prune.channels: data yields no target, and the loss needs one; yield (inputs, target)")
    try:
        loss = criterion(output, target)
    except ParetuneError:
        raise
    except Exception as error:
        raise InputError(
            f"prune.channels: the loss failed on a batch of the data: {in_words(error)}. It was given "
            f"{shapes_of(output)} as output and {shapes_of(target)} as target"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"gives a {type(loss).__name__}"
        raise InputError(
            f"prune.channels: the loss {kind}; it must give a scalar tensor, the mean over the samples"
        )
    if not loss.requires_grad:
        raise InputError(
            "prune.channels: the loss does not depend on the model's output in a way that has a gradient; compute "
            "it without detach, argmax, item or no_grad"
        )
    if not bool(torch.isfinite(loss)):
        raise RunError("prune.channels: the loss is not finite on a batch of the data; look for NaN in either")
    return loss


def _second_derivative(along: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    try:
        return torch.autograd.grad(along, leaves, allow_unused=True)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise InputError(
            f"prune.channels: hessian_grad needs a second derivative that PyTorch lacks ({error}); choose another "
            "score, for example snip"
        ) from error
