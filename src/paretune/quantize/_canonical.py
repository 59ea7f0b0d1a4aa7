"""The same function in nodes that ONNX Runtime has fast integer kernels for, before a grid is chosen.

Batch norms are folded into the convolution before them, or, in a network that norms before it convolves, written
as a depthwise 1x1 Conv, so that the chain stays in integers. An average over the whole plane is a
GlobalAveragePool, which has such a kernel; ReduceMean, as which PyTorch's adaptive pooling is exported, has none.
An average over small windows is a depthwise Conv with equal weights: for 32 channels of 32x32 in 2x2 windows ONNX
Runtime 1.32 took 69 us with its integer AveragePool, 4 us in float, 7 us with this Conv in integers.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from paretune.export import fold_batch_norms
from paretune.quantize._graph import array, attribute, constants, prune, shapes

LARGEST_WINDOW = 25
"""Elements of an averaging window that is written as a Conv: its weights are stored, one byte an element."""


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a new model that computes the same with nodes that the quantizer knows; values keep their names."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    _lift_constants(graph)
    fold_batch_norms(copied)
    _replace_norms(graph)
    _replace_pools(graph)
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


def _replace_norms(graph: onnx.GraphProto) -> None:
    """Write each BatchNormalization of (batch, channel, height, width) that is left as a Conv, in place."""
    known, stated = constants(graph), shapes(graph)
    for node in graph.node:
        if (
            node.op_type != "BatchNormalization"
            or attribute(node, "training_mode", 0)
            or len(stated.get(node.input[0], ())) != 4
            or not all(name in known for name in node.input[1:])
        ):
            continue
        gamma, beta, mean, variance = (array(known[name]).astype(np.float64) for name in node.input[1:])
        factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        names = [
            f"{name}:{node.output[0]}" for name in node.input[1:3]
        ]  # begins with the module's name, as before
        for name, values in zip(names, (factor.reshape(-1, 1, 1, 1), beta - mean * factor), strict=True):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        node.op_type = "Conv"
        node.input[:] = [node.input[0], *names]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("group", len(factor)))


def _replace_pools(graph: onnx.GraphProto) -> None:
    """Write AveragePool and ReduceMean as GlobalAveragePool (and Flatten) or Conv, where they are that."""
    known, stated = constants(graph), shapes(graph)
    nodes = []
    for node in graph.node:
        shape = stated.get(node.input[0], ()) if node.input else ()
        if _averages_the_plane(node, shape, known):
            made = _global_pool(node)
        elif _averages_windows(node, shape):
            made = [_window_pool(graph, node, int(shape[1] or 0))]
        else:
            made = [node]
        for new in made if made[0] is not node else ():
            new.metadata_props.extend(node.metadata_props)
        nodes += made
    kept = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(kept.node)


def _global_pool(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    output = node.output[0]
    if node.op_type == "AveragePool" or attribute(node, "keepdims", 1):
        return [helper.make_node("GlobalAveragePool", [node.input[0]], [output], name=node.name)]
    pooled = f"{output}:pooled"
    return [
        helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name),
        helper.make_node("Flatten", [pooled], [output]),
    ]


def _window_pool(graph: onnx.GraphProto, node: onnx.NodeProto, channels: int) -> onnx.NodeProto:
    """Return the depthwise Conv that averages; its weights become an initializer."""
    window = attribute(node, "kernel_shape")
    weight = np.full((channels, 1, *window), 1 / np.prod(window), dtype=np.float32)
    name = f"{node.output[0]}:mean"
    graph.initializer.append(numpy_helper.from_array(weight, name))
    conv = helper.make_node("Conv", [node.input[0], name], list(node.output), name=node.name, group=channels)
    conv.attribute.extend(a for a in node.attribute if a.name in ("kernel_shape", "strides", "pads", "auto_pad"))
    return conv


def _averages_windows(node: onnx.NodeProto, shape: tuple[int | None, ...]) -> bool:
    """Return whether a node is a mean over windows of one size: none that padding or the edge makes smaller."""
    return (
        node.op_type == "AveragePool"
        and len(shape) == 4
        and shape[1] is not None
        and int(np.prod(attribute(node, "kernel_shape"))) <= LARGEST_WINDOW
        and not attribute(node, "ceil_mode", 0)
        and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and all(step == 1 for step in attribute(node, "dilations", [1]))
        and bool(attribute(node, "count_include_pad", 0) or not any(attribute(node, "pads", [0])))
    )


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
