"""Small questions about an ONNX graph: constants, readers, names, shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return initializers by name, without those that a caller may feed (listed as inputs too)."""
    fed = {value.name for value in graph.input}
    return {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fed}


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """Return a tensor's values."""
    return np.asarray(numpy_helper.to_array(tensor))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute as a Python value."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every value that a node reads, those that the bodies of If, Loop and Scan capture included."""
    yield from (name for name in node.input if name)
    for a in node.attribute:
        for body in (*a.graphs, *((a.g,) if a.type == onnx.AttributeProto.GRAPH else ())):
            for inner in body.node:
                yield from reads(inner)
            yield from (value.name for value in body.output)


def reader_counts(graph: onnx.GraphProto) -> Counter[str]:
    """Return how often each value is read, graph outputs included."""
    counts = Counter(name for node in graph.node for name in reads(node))
    counts.update(value.name for value in graph.output)
    return counts


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return each computed value's node."""
    return {name: node for node in graph.node for name in node.output if name}


def shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes that the graph states; None where an axis is free."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in axes)
    return found


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model is written in."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def prune(graph: onnx.GraphProto) -> None:
    """Remove nodes, initializers and shape notes that nothing reads any more."""
    while True:
        counts = reader_counts(graph)
        dead = [node for node in graph.node if not any(counts[name] for name in node.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    unread = [tensor for tensor in graph.initializer if not counts[tensor.name]]
    for tensor in unread:
        graph.initializer.remove(tensor)
    known = set(producers(graph))
    for value in [value for value in graph.value_info if value.name not in known]:
        graph.value_info.remove(value)
