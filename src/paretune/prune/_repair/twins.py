"""The whole and the cut model, run side by side over calibration data, and stopped at one layer after the other.

Both are the captured graph; the cut one has the removed channels masked where they are read (`masked`), so that
every node of one stands for the same node of the other, whatever form the cut was delivered in. Between layers
the activations of all batches wait in memory, as far as `HELD` reaches; batches beyond that start anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from paretune.data import map_tensors, tensors_of
from paretune.errors import DataError
from paretune.prune._analysis import Analysis
from paretune.prune._capture.graph import named_arguments
from paretune.prune._couplings.couplings import arguments as named
from paretune.prune._evidence.batches import cut_to
from paretune.prune._surgery.masked import Masked
from paretune.prune._surgery.surgery import Keep

HELD = 2**30
"""Bytes of activations that wait between layers."""

Env = dict[fx.Node, Any]
"""Values of nodes that something still reads."""


@dataclass
class _Pair:
    """One batch: how far it came, and what is known there."""

    start: int
    whole: Env
    cut: Env


class Twins:
    """Both models over all batches."""

    def __init__(self, analysis: Analysis, keep: Keep, batches: Sequence[Any]) -> None:
        self.analysis = analysis
        self.tensors: dict[str, Tensor] = {}
        """Tensors of the cut model that may differ from the whole one's, in full size, by node."""
        self.nodes = {node.name: node for node in analysis.graph.graph.nodes}
        """Nodes of the graph that runs, under the names of the captured ones."""
        self._order = list(self.nodes.values())
        self._place = {node: index for index, node in enumerate(self._order)}
        self._last_use = {n: i for i, node in enumerate(self._order) for n in node.all_input_nodes}
        self._whole = fx.Interpreter(analysis.graph)
        self._cut = _Cut(analysis.graph, analysis.captured.program.graph, analysis.couplings, keep)
        self._pairs = [_Pair(0, env, env) for env in self._begin(batches)]
        self.batches = len(self._pairs)
        self.samples = sum(map(_samples, (pair.whole for pair in self._pairs)))

    def _begin(self, batches: Sequence[Any]) -> list[Env]:
        """Return the batches by placeholder, cut to the captured size where the graph takes no other."""
        size = self.analysis.captured.batch
        placed = [self._placed(batch) for batch in batches]
        try:
            for env in placed[:1]:
                self._advance(self._cut, {**env, **self._attributes(self._cut)}, 0, len(self._order))
        except _OtherBatchError:
            parts = [part for batch in batches for part, _ in cut_to(size, (batch, None))]
            placed = [self._placed(part) for part in parts]
        if not placed:
            least = "" if size is None else f" of {size} samples"
            raise DataError(f"prune.channels: data yields no batch{least}, the least that is needed; give more")
        return placed

    def _placed(self, inputs: Any) -> Env:
        values = dict(named_arguments(self.analysis.model, inputs))
        return {
            node: values[str(node.target)] if node.target in values else node.args[0]
            for node in self._order
            if node.op == "placeholder"
        }

    def own(self, node: fx.Node) -> Tensor:
        """Return the cut model's own tensor in the place of a node of the captured graph, to be written into."""
        if node.name not in self.tensors:
            value: Tensor = self._cut.fetch_attr(str(self.nodes[node.name].target))
            # contiguous, whatever memory format the model has: it is written into through flat views
            self.tensors[node.name] = value.detach().clone(memory_format=torch.contiguous_format)
        return self.tensors[node.name]

    def stop_at(self, node: fx.Node) -> Iterator[Stop]:
        """Yield every batch with both models run up to a node; call it in the order of the graph.

        The cut model has its own `tensors` as they are now.
        """
        node = self.nodes[node.name]
        place, held = self._place[node], 0
        attributes = self._attributes(self._whole), self._attributes(self._cut)
        for pair in self._pairs:
            whole, cut = (
                {**_copied(env), **own} for env, own in zip((pair.whole, pair.cut), attributes, strict=True)
            )
            self._advance(self._whole, whole, pair.start, place)
            self._advance(self._cut, cut, pair.start, place)
            waiting = [{n: v for n, v in env.items() if n.op != "get_attr"} for env in (whole, cut)]
            held += sum(map(_bytes, waiting))
            if held <= HELD:
                pair.start, pair.whole, pair.cut = place, _copied(waiting[0]), _copied(waiting[1])
            yield Stop(self, place, whole, cut)

    def _run_cut(self, node: fx.Node, env: Env) -> Any:
        self._cut.env = env
        return self._cut.run_node(node)

    def _attributes(self, run: fx.Interpreter) -> Env:
        return {node: self._tensor(run, node) for node in self._order if node.op == "get_attr"}

    def _tensor(self, run: fx.Interpreter, node: fx.Node) -> Any:
        if run is self._cut and node.name in self.tensors:
            return self.tensors[node.name]
        value = run.fetch_attr(str(node.target))
        # a buffer may be written to, by operators that stand in the graph
        return value.detach() if isinstance(value, torch.nn.Parameter) else value.clone()

    def _advance(self, run: fx.Interpreter, env: Env, start: int, stop: int) -> None:
        """Run nodes [start, stop) on what is known, and forget what nothing reads any more."""
        run.env = env
        for index, node in enumerate(self._order[start:stop], start):
            if node.op in ("get_attr", "placeholder", "output"):
                continue
            env[node] = run.run_node(node)
            for argument in node.all_input_nodes:
                if self._last_use[argument] <= index and argument.op != "get_attr":
                    env.pop(argument, None)


@dataclass(frozen=True)
class Join:
    """Where a node's value is added to another branch."""

    chain: tuple[str, ...]
    """Nodes that it goes through before; they scale, shift or move single numbers."""
    total: str
    other: str
    """The sum, and what is added."""


@dataclass
class Stop:
    """Both models, stopped before one node, for one batch."""

    twins: Twins
    place: int
    whole: Env
    cut: Env

    def read(self, source: fx.Node) -> tuple[dict[str, Any], Any]:
        """Return the node's arguments in the cut model, by name, and the value of one of those that it reads."""
        node = self.twins._order[self.place]
        values = {k: fx.node.map_arg(v, lambda n: self.cut[n]) for k, v in named(node).items()}
        return values, self.cut[self.twins.nodes[source.name]].clone()  # what follows may write into it

    def missing(self, join: Join | None) -> tuple[Tensor, Tensor]:
        """Run on; return what the node gives in the cut model, and what would have to be added to it.

        That is what it lacks to the whole model's value; with a join, to where both sums are equal.
        """
        twins, node = self.twins, self.twins._order[self.place]
        twins._advance(twins._cut, self.cut, self.place, self.place + 1)
        value = self.cut[node].clone()  # what follows may write into it
        if join is None:
            twins._advance(twins._whole, self.whole, self.place, self.place + 1)
            return value, self.whole[node] - value
        total, other = twins.nodes[join.total], twins.nodes[join.other]
        twins._advance(twins._whole, self.whole, self.place, twins._place[total] + 1)
        twins._advance(twins._cut, self.cut, self.place + 1, max(self.place, twins._place[other]) + 1)
        chain = [twins.nodes[name] for name in join.chain]
        return value, self._led_back(node, value, chain, self.whole[total] - self.cut[other])

    def _led_back(self, node: fx.Node, value: Tensor, chain: list[fx.Node], wanted: Tensor) -> Tensor:
        """Return what to add to a value so that a chain of nodes makes `wanted` of it.

        The chain scales, shifts and moves single numbers: its adjoint moves a number back and scales it once more.
        Numbers that the chain drops or multiplies by zero need nothing.
        """
        env = {**self.cut, **self.twins._attributes(self.twins._cut)}
        with torch.enable_grad():
            start = value.detach().requires_grad_()
            env[node] = end = start * 1  # a leaf must not be written into
            for link in chain:
                env[link] = end = self.twins._run_cut(link, env)
            lack = (wanted - end).detach()
            if not chain:
                return lack
            (back,) = torch.autograd.grad(end, start, lack, retain_graph=True)
            (scale,) = torch.autograd.grad(end, start, torch.ones_like(lack))
        square = scale.square()
        return torch.where(square > 0, back / square.where(square > 0, torch.ones_like(square)), 0)


class _Cut(Masked):
    """The masked model; it says so where the masks were made for another batch."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, once its masks are as long as the axes they are for."""
        for masking, places in self._masks.get(n.name, ()):
            value = self.env[self._node(n, masking.argument.name)]
            if places.dim() == 1 and len(places) != value.shape[masking.axis]:
                raise _OtherBatchError
        return super().run_node(n)


class _OtherBatchError(Exception):
    """An axis that is cut holds the samples too, so that the masks are for the captured batch alone."""


def _samples(env: Env) -> int:
    return len(next(value for value in env.values() if isinstance(value, Tensor)))


def _copied(env: Env) -> Env:
    """Return the values with memory of their own; those that share memory share it in the copy too."""
    memory: dict[int, torch.UntypedStorage] = {}

    def copied(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        own = memory.setdefault(storage._cdata, storage.clone())  # type: ignore[no-untyped-call]
        new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return new.set_(own, tensor.storage_offset(), tensor.shape, tensor.stride())

    copies: Env = map_tensors(copied, env)
    return copies


def _bytes(env: Env) -> int:
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_of(env)}
    return sum(sizes.values())
