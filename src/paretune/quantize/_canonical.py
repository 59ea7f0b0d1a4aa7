"""The same function in fewer kinds of node: batch norm folded, averages over the whole plane as one operator.

ONNX Runtime has an integer kernel for GlobalAveragePool; for ReduceMean, as which PyTorch's adaptive pooling is
exported, it has none, and its AveragePool is slower.
"""

from __future__ import annotations

import onnx
from onnx import helper

from paretune.export import fold_batch_norms
from paretune.quantize._graph import array, attribute, constants, prune, shapes


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a new model that computes the same with nodes that the quantizer knows; values keep their names."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    _lift_constants(graph)
    fold_batch_norms(copied)
    _replace_whole_pools(graph)
    prune(graph)
    return copied


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, so that there is one kind of constant."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = attribute(node, "value")
        if isinstance(value, onnx.TensorProto):
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.node.remove(node)


def _replace_whole_pools(graph: onnx.GraphProto) -> None:
    """Write AveragePool and ReduceMean over all spatial axes as GlobalAveragePool (and Flatten)."""
    known, stated = constants(graph), shapes(graph)
    for node in list(graph.node):
        shape = stated.get(node.input[0], ()) if node.input else ()
        if not _averages_the_plane(node, shape, known):
            continue
        keep = node.op_type == "AveragePool" or attribute(node, "keepdims", 1)
        pooled = node.output[0] if keep else f"{node.output[0]}:pooled"
        nodes = [helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not keep:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]]))
        for made in nodes:
            made.metadata_props.extend(node.metadata_props)
        index = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, made in enumerate(nodes):
            graph.node.insert(index + offset, made)


def _averages_the_plane(
    node: onnx.NodeProto, shape: tuple[int | None, ...], known: dict[str, onnx.TensorProto]
) -> bool:
    """Return whether a node is the mean over every axis after the second; False where shapes are unknown."""
    if len(shape) < 3:
        return False
    if node.op_type == "AveragePool":
        pads = attribute(node, "pads", [0])
        return attribute(node, "kernel_shape") == list(shape[2:]) and not any(pads)
    if node.op_type != "ReduceMean":
        return False
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1] in known:
        axes = array(known[node.input[1]]).ravel().tolist()
    if not isinstance(axes, list):
        return False
    return sorted(axis % len(shape) for axis in axes) == list(range(2, len(shape)))
