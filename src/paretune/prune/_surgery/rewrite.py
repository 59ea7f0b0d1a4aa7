"""Rewriting: the captured graph with every number that follows from a cut counted anew.

Sizes of views, bounds of slices, lengths of parts, groups of depthwise convolutions: after a cut each is what the
kept positions say. An operator reads exactly the positions that it read before and that stay; where these are no
range any more (a shuffle whose blocks lost unlike channels), they are picked by number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paretune.graphs import plain_norm
from paretune.prune._capture.capture import Capture
from paretune.prune._capture.graph import Builder, Numbers, PerSample
from paretune.prune._couplings.couplings import Couplings, axis_index, names_of
from paretune.prune._couplings.operators import operator_of
from paretune.prune._couplings.rules.lookup import constant_of
from paretune.prune._couplings.units import Axis
from paretune.prune._surgery.surgery import Keep, kept

aten = torch.ops.aten


def rewrite(
    model: nn.Module,
    captured: Capture,
    state: Couplings,
    keep: Keep,
    numbers: Numbers | None,
    *,
    folded: Mapping[fx.Node, tuple[str, nn.Parameter]] | None = None,
) -> fx.GraphModule:
    """Return the captured graph, rewritten for a cut, over the tensors of the cut model.

    model: the model after the cut: its tensors are used as they are, its code is not run; batch norm and dropout
    are its own modules, so that the result trains. numbers: as `numbers_per_sample` found them. folded: nodes that
    a parameter takes the place of, with its name.
    """
    rewriter = _Rewriter(model, captured, state, keep, numbers or {})
    for node, (name, parameter) in (folded or {}).items():
        rewriter.fold(node, name, parameter)
    for node in captured.program.graph.nodes:
        if node.op == "call_function" and node not in (folded or {}):
            rewriter.rewrite(node)
    return rewriter.finish()


class _Rewriter(Builder):
    def __init__(
        self, model: nn.Module, captured: Capture, state: Couplings, keep: Keep, numbers: Numbers
    ) -> None:
        super().__init__(model, captured)
        self.state, self.keep, self.numbers = state, keep, numbers
        self.batch = captured.batch or 1
        self._picked = {
            final: permutation
            for final, permutation in state.permutations.items()
            if self.changed(state.values[permutation[0]][permutation[1]])
        }
        for node in state.constants.keys() - state.parameters.keys():
            if node in self.copies:
                self._cut_constant(node)
        self._left_out = {node for final, (source, *_) in self._picked.items() for node in _between(source, final)}
        self._views: dict[fx.Node, tuple[Any, int, fx.Node | None]] = {}
        """View -> what it is a view of, the axis, and the positions there if it is a copy by now."""

    def rewrite(self, node: fx.Node) -> None:
        """Append what stands for a node after the cut."""
        if node in self._left_out:
            return
        if node in self._picked:
            source, axis, positions = self._picked[node]
            parent = self.state.values[source][axis]
            self.copies[node] = self.pick(self.copies[source], axis, parent, positions)
            return
        args, kwargs = self.numbers.get(node, (node.args, node.kwargs))
        call = _Call(self, node, list(args), dict(kwargs))
        if not self._as_module(call):
            rewrite = _REWRITES.get(operator_of(node)) if self.state.values.get(node) is not None else None
            result = rewrite(call) if rewrite is not None else None
            if result is not None:
                self.copies[node] = result
            else:
                self._portable(call)
                # how a tensor lies in memory may depend on its widths, and with it whether a view can be had
                target = aten.reshape.default if call.target is aten.view.default else call.target
                self.add(node, target, call.args, call.kwargs)
                self._write_back(node)
        if call.narrow:
            self._narrow(node)

    def _cut_constant(self, node: fx.Node) -> None:
        """Leave out what is not needed of a tensor that the capture found outside of the model's buffers."""
        name = str(self.copies[node].target)
        for dim, axis in enumerate(self.state.values[node]):
            if self.changed(axis):
                index = torch.from_numpy(np.flatnonzero(self.kept(axis)))
                tensor = self._tensors[name]
                self._tensors[name] = tensor.index_select(dim, index.to(tensor.device))

    def fold(self, node: fx.Node, name: str, parameter: nn.Parameter) -> None:
        """Let a parameter take the place of a node."""
        self._tensors[name] = parameter
        self.copies[node] = self.graph.get_attr(name)

    def kept(self, axis: Axis) -> Keep:
        return kept(self.keep, axis)

    def changed(self, axis: Axis) -> bool:
        return not bool(self.kept(axis).all())

    def count(self, axis: Axis) -> int:
        return int(self.kept(axis).sum())

    def resized(self, number: Any, axis: Axis) -> Any:
        """Return what a size in the graph becomes, -1 for one that is left open."""
        if number == -1 or not self.changed(axis):
            return number
        count = self.count(axis)
        if not isinstance(number, PerSample):
            return count
        before = len(axis)
        fixed, each = number.fixed * count, number.each * count
        assert fixed % before == each % before == 0, "a size that follows the batch was cut unevenly over it"
        return PerSample(fixed // before, each // before)

    def pick(self, value: Any, dim: int, parent: Axis, positions: NDArray[np.int64]) -> Any:
        """Read given positions of an axis, those that stay, by a slice where they are a range."""
        stays = self.kept(parent)
        place = np.cumsum(stays) - 1
        wanted = place[positions[stays[positions]]]
        if np.array_equal(wanted, np.arange(int(stays.sum()))):
            return value
        if len(wanted) and np.array_equal(wanted, np.arange(wanted[0], wanted[0] + len(wanted))):
            return self.call(aten.slice.Tensor, value, dim, int(wanted[0]), int(wanted[-1]) + 1)
        name = f"positions_{len(self.graph.nodes)}"
        return self.call(aten.index_select.default, value, dim, self.constant(name, torch.from_numpy(wanted)))

    def view(self, value: Any, dim: int, parent: Axis, positions: NDArray[np.int64]) -> Any:
        """Read given positions as `pick` does; what is written there later is written to the value too."""
        copy = self.pick(value, dim, parent, positions)
        if copy is not value:
            is_copy = copy.target is aten.index_select.default
            self._views[copy] = (value, dim, copy.args[2] if is_copy else None)
        return copy

    def _write_back(self, node: fx.Node) -> None:
        """Note views of views; where a node writes to one that became a copy, write to what it was a view of."""
        written = self.copies[node]
        read = written.args[0] if written.args else None
        if read not in self._views or not _aliases(node):
            return
        self._views[written] = self._views[read] if _writes(node) else (read, 0, None)
        if not _writes(node):
            return
        while written in self._views:
            value, dim, positions = self._views[written]
            if positions is not None:
                self.call(aten.index_copy_.default, value, dim, positions, written)
            written = value

    def _narrow(self, node: fx.Node) -> None:
        """Leave out what is not needed of a tensor that is made of numbers."""
        for dim, axis in enumerate(self.state.values[node]):
            if self.changed(axis):
                every = np.arange(len(axis))
                value, stays = self.copies[node], self.kept(axis)
                picked = every[stays]
                index = self.constant(f"positions_{len(self.graph.nodes)}", torch.from_numpy(picked))
                self.copies[node] = self.call(aten.index_select.default, value, dim, index)

    def _as_module(self, call: _Call) -> bool:
        """Run batch norm and dropout as modules, which know whether the model trains."""
        name = operator_of(call.node)
        if name == "batch_norm":
            weight = call.get("running_mean")
            tensor = self.state.parameters.get(weight) if isinstance(weight, fx.Node) else None
            owner = tensor.rpartition(".")[0] if tensor else ""
            module = self._model.get_submodule(owner) if owner else None
            if isinstance(module, _BatchNorm) and self._called_by(call.node, module):
                self._module(call, owner, plain_norm(module))
                return True
        if name in ("dropout", "feature_dropout") and call.get("train") is False:
            path = f"dropout_{len(self.graph.nodes)}"
            rank = len(call.axes("input"))
            kind = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}.get(rank) if name != "dropout" else None
            self._module(call, path, (kind or nn.Dropout)(call.get("p")))
            return True
        return False

    def _called_by(self, node: fx.Node, module: nn.Module) -> bool:
        """Tell whether a module's own forward calls an operator, which others may call with its tensors."""
        *_, (path, _) = (node.meta.get("nn_module_stack") or {"": ("", None)}).values()
        try:
            return self._model.get_submodule(path) is module
        except AttributeError:  # a path of the graph that was captured, which this model has not
            return False

    def _module(self, call: _Call, path: str, module: nn.Module) -> None:
        self._tensors[path] = module
        copy = self.graph.create_node("call_module", path, (self.translate(call.args[0]),), name=call.node.name)
        copy.meta = dict(call.node.meta)
        self.copies[call.node] = copy

    def _portable(self, call: _Call) -> None:
        """Let tensors be made where the input is, and of the type that the weights have by then."""
        made = operator_of(call.node) in _MADE
        for where in (call.kwargs, call.args):
            for key in list(where) if isinstance(where, dict) else range(len(where)):
                value = where[key]  # type: ignore[index]
                if isinstance(value, torch.device) or (made and isinstance(value, torch.dtype)):
                    where[key] = self.portable(value)  # type: ignore[index]


_MADE = (
    *("zeros", "ones", "full", "empty", "rand", "randn", "arange", "linspace", "eye", "scalar_tensor"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
"""Operators that make a tensor; what casts one (`to`) says of which type it is to be."""


class _Call:
    """A node's arguments while they are rewritten, by the names of the operator's schema."""

    def __init__(self, rewriter: _Rewriter, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.rewriter, self.node, self.target, self.args, self.kwargs = rewriter, node, node.target, args, kwargs
        self.narrow = False

    def get(self, name: str, default: Any = None) -> Any:
        index, schema = self._find(name)
        if index < len(self.args):
            return self.args[index]
        if name in self.kwargs:
            return self.kwargs[name]
        has = schema is not None and schema.has_default_value()
        return schema.default_value if has else default

    def put(self, name: str, value: Any) -> None:
        index, _ = self._find(name)
        if index < len(self.args):
            self.args[index] = value
        else:
            self.kwargs[name] = value

    def _find(self, name: str) -> tuple[int, Any]:
        arguments = names_of(self.node)
        if name not in arguments:
            return len(self.args), None
        index = list(arguments).index(name)
        return index, arguments[name]

    def first(self, *names: str) -> str:
        """Return the first of these names that the operator has."""
        return next(name for name in names if name in names_of(self.node))

    def axes(self, name: str) -> list[Axis]:
        return list(self.rewriter.state.values[self.get(name)])

    @property
    def out(self) -> list[Axis]:
        return list(self.rewriter.state.values[self.node])

    def dim(self, name: str, rank: int) -> int:
        return axis_index(self.get(name, 0), rank)


def _aliases(node: fx.Node) -> bool:
    """Say whether an operator returns its first argument or a view of it."""
    return _alias(node) is not None


def _writes(node: fx.Node) -> bool:
    """Say whether an operator writes to its first argument."""
    alias = _alias(node)
    return alias is not None and alias.is_write


def _alias(node: fx.Node) -> Any:
    schema = getattr(node.target, "_schema", None)
    return schema.arguments[0].alias_info if schema and schema.arguments else None


def _between(source: fx.Node, final: fx.Node) -> list[fx.Node]:
    found, node = [], final.args[0]
    while isinstance(node, fx.Node) and node is not source:
        found.append(node)
        node = node.args[0]
    return found


def _size(call: _Call) -> None:
    """Views, expansions and tensors made of a size: each number is what stays of the output's axis."""
    name = call.first("size", "shape", "sizes")
    numbers, out = list(call.get(name)), call.out
    call.put(name, [call.rewriter.resized(n, axis) for n, axis in zip(numbers, out, strict=True)])


def _unflatten(call: _Call) -> None:
    sizes = list(call.get("sizes"))
    dim = call.dim("dim", len(call.axes("self")))
    axes = call.out[dim : dim + len(sizes)]
    call.put("sizes", [call.rewriter.resized(n, axis) for n, axis in zip(sizes, axes, strict=True)])


def _constant(call: _Call) -> None:
    call.narrow = any(map(call.rewriter.changed, call.out))


def _slice(call: _Call) -> Any:
    axes = call.axes("self")
    dim = call.dim("dim", len(axes))
    parent = axes[dim]
    if not call.rewriter.changed(parent):
        return None
    positions = np.arange(len(parent))[slice(call.get("start"), call.get("end"), call.get("step"))]
    return call.rewriter.view(call.rewriter.copies[call.get("self")], dim, parent, positions)


def _select(call: _Call) -> None:
    axes = call.axes("self")
    parent = axes[call.dim("dim", len(axes))]
    index = call.get("index")
    if call.rewriter.changed(parent) and not isinstance(index, PerSample):
        stays = call.rewriter.kept(parent)
        call.put("index", int(stays[: index % len(parent)].sum()))


def _parts(call: _Call) -> Any:
    """Chunks and splits become a split into the lengths that stay; of copies where it was one."""
    axes = call.axes("self")
    dim = call.dim("dim", len(axes))
    if not call.rewriter.changed(axes[dim]):
        return None
    lengths = [call.rewriter.count(part[dim]) for part in call.rewriter.state.values[call.node]]
    value = call.rewriter.copies[call.get("self")]
    copies = operator_of(call.node).startswith("unsafe")
    split = aten.unsafe_split_with_sizes if copies else aten.split_with_sizes
    return call.rewriter.call(split.default, value, lengths, dim)


def _pad(call: _Call) -> None:
    axes, out, amounts = call.axes("self"), call.out, list(call.get("pad"))
    for offset in range(len(amounts) // 2):
        dim = len(axes) - 1 - offset
        before, after = amounts[2 * offset : 2 * offset + 2]
        if call.rewriter.changed(out[dim]) and not isinstance(before, PerSample) and before + after:
            stays = call.rewriter.kept(out[dim])
            amounts[2 * offset] = int(stays[:before].sum())
            amounts[2 * offset + 1] = int(stays[len(stays) - after :].sum()) if after else 0
    call.put("pad", amounts)


def _repeat(call: _Call) -> None:
    name = call.first("repeats", "dims")
    axes, out, times = call.axes("self"), call.out, list(call.get(name))
    new = len(out) - len(axes)
    times = [1] * (len(out) - len(times)) + times
    for dim, axis in enumerate(out):
        if call.rewriter.changed(axis) and (dim < new or len(axes[dim - new]) == 1):
            times[dim] = call.rewriter.resized(times[dim], axis)
    call.put(name, times)


def _interleave(call: _Call) -> None:
    axes = call.axes("self")
    dim = call.dim("dim", len(axes))
    if len(axes[dim]) == 1 and call.rewriter.changed(call.out[dim]):
        call.put("repeats", call.rewriter.count(call.out[dim]))
    if isinstance(call.get("output_size"), int):
        call.put("output_size", call.rewriter.count(call.out[dim]))


def _normalised(call: _Call) -> None:
    axes = call.axes("input")
    shape = list(call.get("normalized_shape"))
    call.put("normalized_shape", [call.rewriter.count(axis) for axis in axes[len(axes) - len(shape) :]])


def _attention(call: _Call) -> None:
    width = call.axes("query")[-1]
    if call.get("scale") is None and call.rewriter.changed(width):
        call.put("scale", float(len(width) ** -0.5))


def _groups(call: _Call) -> None:
    groups = call.get("groups")
    channels = call.axes("input")[-len(call.axes("weight")) + 1]
    if isinstance(groups, PerSample):  # as many as there are samples, whatever is cut
        return
    if groups > 1 and groups == len(channels):
        call.put("groups", call.rewriter.count(channels))


def _norm_groups(call: _Call) -> None:
    channels = call.axes("input")[1]
    if call.get("num_groups") == len(channels):
        call.put("num_groups", call.rewriter.count(channels))


def _stack(call: _Call) -> None:
    tensors = list(call.get("tensors"))
    dim = call.dim("dim", len(call.out))
    call.put("tensors", [t for t, stays in zip(tensors, call.rewriter.kept(call.out[dim]), strict=True) if stays])


def _index(call: _Call) -> Any:
    axes = call.axes("self")
    indices = list(call.get("indices"))
    used = [dim for dim, tensor in enumerate(indices) if tensor is not None]
    known = constant_of(call.rewriter.state, indices[used[0]]) if len(used) == 1 else None
    if known is None or known.ndim != 1 or not call.rewriter.changed(axes[used[0]]):
        return None
    return call.rewriter.pick(call.rewriter.copies[call.get("self")], used[0], axes[used[0]], known)


def _index_select(call: _Call) -> Any:
    axes = call.axes("self")
    dim, known = call.dim("dim", len(axes)), constant_of(call.rewriter.state, call.get("index"))
    if known is None or not call.rewriter.changed(axes[dim]):
        return None
    return call.rewriter.pick(call.rewriter.copies[call.get("self")], dim, axes[dim], known)


def _shuffle(call: _Call) -> Any:
    parent = call.axes("self")[1]
    if not call.rewriter.changed(parent):
        return None
    positions = np.arange(len(parent)).reshape(int(call.get("groups")), -1).T.ravel()
    return call.rewriter.pick(call.rewriter.copies[call.get("self")], 1, parent, positions)


def _one_hot(call: _Call) -> None:
    if call.rewriter.changed(call.out[-1]):
        call.put("num_classes", call.rewriter.count(call.out[-1]))


def _squeeze(call: _Call) -> None:
    """Drop the axes that had size 1, and none that a cut brought down to it."""
    axes = call.axes("self")
    dims = call.get("dim")
    asked = range(len(axes)) if dims is None else (dims if isinstance(dims, list | tuple) else [dims])
    call.target = aten.squeeze.dims
    call.args = [call.get("self"), [d for d in asked if len(axes[axis_index(d, len(axes))]) == 1]]
    call.kwargs = {}


_REWRITES: dict[str, Callable[[_Call], Any]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand", "broadcast_to"), _size),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn"), _size),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), _size),
    **dict.fromkeys(("arange", "linspace", "eye"), _constant),
    "unflatten": _unflatten,
    **dict.fromkeys(("slice", "narrow"), _slice),
    "select": _select,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _parts),
    **dict.fromkeys(("unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"), _parts),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _interleave,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys([f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)], _groups),
    "group_norm": _norm_groups,
    "stack": _stack,
    "index": _index,
    "index_select": _index_select,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle),
    "one_hot": _one_hot,
    "squeeze": _squeeze,
}
