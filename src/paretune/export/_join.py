"""Join what the exporter writes as several nodes and a runtime does in one: each node costs a microsecond or two.

`x[:, :, ::2, ::2]` comes as one Slice for each axis, `interpolate` to a fixed size computes the whole shape of
its result first, and a range of activations (`paretune._replaced.Clip`, `nn.Hardshrink`) compares and selects.
All of it is exact: not a single number of the graph's outputs changes, but that of NaN a Clip may make an end of
its range.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from paretune.export._fold import drop_unused


def join_nodes(model: onnx.ModelProto) -> int:
    """Join, in place, slices of slices and resizes with a computed shape; return how many nodes went."""
    before = len(model.graph.node)
    _join_slices(model.graph)
    _fix_sizes(model.graph)
    _join_ranges(model.graph)
    _drop_unread(model.graph)
    drop_unused(model.graph)
    return before - len(model.graph.node)


def _join_slices(graph: onnx.GraphProto) -> None:
    """Let one Slice do what two did one after the other along different axes.

    Left alone: where the first is read elsewhere too, or a start, end, axis or step is computed.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = _readers(graph)
    makers = {name: node for node in graph.node for name in node.output}
    gone = []
    for node in graph.node:
        first = makers.get(node.input[0]) if node.op_type == "Slice" else None
        if first is None or first.op_type != "Slice" or readers[first.output[0]] != 1:
            continue
        parts = [_limits(each, constants) for each in (first, node)]
        known = [part for part in parts if part is not None]
        if len(known) < 2 or set(known[0][2]) & set(known[1][2]):
            continue
        joined = np.concatenate(known, axis=1)
        names = [f"{node.output[0]}.{kind}" for kind in ("starts", "ends", "axes", "steps")]
        tensors = [numpy_helper.from_array(row.copy(), name) for row, name in zip(joined, names, strict=True)]
        graph.initializer.extend(tensors)
        constants |= {tensor.name: tensor for tensor in tensors}
        node.input[:] = [first.input[0], *names]
        gone.append(first)
    for node in gone:
        graph.node.remove(node)


def _limits(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> np.ndarray | None:
    """Return starts, ends, axes and steps of a Slice, (4, axes) int64; None where one is computed, or counts from
    the end, since -1 and 3 may be the same axis."""
    names = list(node.input[1:])
    if len(names) < 3 or any(name not in constants for name in names):
        return None
    rows = [numpy_helper.to_array(constants[name]).astype(np.int64) for name in names]
    rows += [np.ones_like(rows[0])] * (4 - len(rows))
    limits = np.stack(rows)
    return None if (limits[2] < 0).any() else limits


def _fix_sizes(graph: onnx.GraphProto) -> None:
    """Give a Resize the two sizes that are fixed, with their axes, in place of a shape computed from the batch."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or any(a.name == "axes" for a in node.attribute):
            continue
        shape = makers.get(node.input[3])
        sizes = None if shape is None else _behind_the_shape_of(node.input[0], shape, makers, constants)
        if sizes is None:
            continue
        axes, values = sizes
        name = f"{node.output[0]}.sizes"
        graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[3] = name
        node.attribute.append(helper.make_attribute("axes", axes))


def _behind_the_shape_of(
    name: str,
    shape: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
) -> tuple[list[int], np.ndarray] | None:
    """Return axes and sizes where a shape is the first axes of a value's own, followed by constants."""
    if shape.op_type != "Concat" or len(shape.input) < 2:
        return None
    own = makers.get(shape.input[0])
    if own is None or own.op_type != "Shape" or own.input[0] != name:
        return None
    attributes = {a.name: a.i for a in own.attribute}
    kept = attributes.get("end", 0)
    if attributes.get("start", 0) != 0 or kept < 1 or any(part not in constants for part in shape.input[1:]):
        return None
    values = np.concatenate([numpy_helper.to_array(constants[part]).reshape(-1) for part in shape.input[1:]])
    return list(range(kept, kept + len(values))), values.astype(np.int64)


def _join_ranges(graph: onnx.GraphProto) -> None:
    """Write `where(x < low, low, x)` and its like for the high end as Clip, `where(|x| <= t, 0, x)` as Shrink."""
    constants = {tensor.name: tensor for tensor in graph.initializer if _is_single(tensor)}
    makers, readers = {name: node for node in graph.node for name in node.output}, _readers(graph)
    for node in graph.node:
        if node.op_type != "Where" or node.input[1] not in constants:
            continue
        condition, chosen, x = makers.get(node.input[0]), node.input[1], node.input[2]
        if condition is None or condition.op_type not in ("Less", "Greater", "LessOrEqual"):
            continue
        compared, bound = condition.input
        if bound not in constants:
            continue
        if condition.op_type == "LessOrEqual":
            absolute = makers.get(compared)
            zero = float(_number(constants[chosen])) == 0.0
            if absolute is not None and absolute.op_type == "Abs" and absolute.input[0] == x and zero:
                _become(node, "Shrink", [x], lambd=float(_number(constants[bound])), bias=0.0)
        elif compared == x and _number(constants[chosen]) == _number(constants[bound]):
            before = makers.get(x)
            clips = before is not None and before.op_type == "Clip" and len(before.input) == 2
            if condition.op_type == "Less":
                _become(node, "Clip", [x, bound])
            elif clips and before is not None and readers[x] == 2:  # the comparison and this node
                _become(node, "Clip", [before.input[0], before.input[1], bound])
            else:
                _become(node, "Clip", [x, "", bound])


def _become(node: onnx.NodeProto, operator: str, inputs: list[str], **attributes: float) -> None:
    node.op_type = operator
    node.input[:] = inputs
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _is_single(tensor: onnx.TensorProto) -> bool:
    """Tell whether a constant is one float32 number without axes, as Clip wants its ends."""
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 0


def _number(tensor: onnx.TensorProto) -> np.float32:
    return np.float32(numpy_helper.to_array(tensor))


UNREAD = ("Abs", "Clip", "Concat", "Greater", "Less", "LessOrEqual", "Shape")


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes whose results nobody reads any more."""
    while True:
        readers = _readers(graph)
        unread = [
            node for node in graph.node if node.op_type in UNREAD and not any(readers[out] for out in node.output)
        ]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


def _readers(graph: onnx.GraphProto) -> Counter[str]:
    """Return how often each value is read, within branches too."""
    found = Counter(value.name for value in graph.output)
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for part in [attribute.g, *attribute.graphs] if attribute.type in _GRAPHS else ():
                found += _readers(part)
    return found


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
