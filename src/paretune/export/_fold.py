"""Fold batch norms that the exporter left behind a convolution or a linear layer.

In inference y = scale (W x + b - mean) / sqrt(variance + epsilon) + shift is again W' x + b'. The exporter
folds most of them; it leaves those whose weights serve two nodes, where each node needs its own folded copy.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

FOLDABLE = ("Conv", "ConvTranspose", "Gemm")


def fold_batch_norms(model: onnx.ModelProto) -> int:
    """Fold, in place, every BatchNormalization whose only input is such a layer's; return how many.

    Left alone: a norm whose layer's output is read elsewhere too, or whose parameters are not constants.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    folded = []
    for norm in graph.node:
        layer = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if layer is None or layer.op_type not in FOLDABLE or readers[norm.input[0]] != 1:
            continue
        parameters = [*layer.input[1:], *norm.input[1:]]
        if not all(name in constants for name in parameters if name) or _axis(layer) is None:
            continue
        if any(name for name in norm.output[1:]):
            continue  # a norm in training mode: its statistics are read
        _fold(graph, layer, norm, constants)
        folded.append(norm)
    for norm in folded:
        graph.node.remove(norm)
    drop_unused(graph)
    return len(folded)


def _fold(
    graph: onnx.GraphProto, layer: onnx.NodeProto, norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    scale, shift, mean, variance = (numpy_helper.to_array(constants[name]) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    weight = numpy_helper.to_array(constants[layer.input[1]])
    has_bias = len(layer.input) > 2 and layer.input[2]
    bias = numpy_helper.to_array(constants[layer.input[2]]) if has_bias else np.zeros_like(mean)
    # float64, or the folded weights carry the rounding of four steps instead of one
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    attributes = {a.name: a for a in layer.attribute}
    beta = attributes["beta"].f if "beta" in attributes else 1.0
    new_weight = weight * _along(factor, weight, layer)
    new_bias = (bias.astype(np.float64) * beta - mean) * factor + shift
    if "beta" in attributes:
        attributes["beta"].f = 1.0
    name = norm.output[0]
    weight_name, bias_name = f"{layer.input[1]}.{name}", f"{name}.folded_bias"
    graph.initializer.extend(
        [
            numpy_helper.from_array(new_weight.astype(weight.dtype), weight_name),
            numpy_helper.from_array(new_bias.astype(weight.dtype), bias_name),
        ]
    )
    layer.input[:] = [layer.input[0], weight_name, bias_name]
    layer.output[0] = name


def _axis(layer: onnx.NodeProto) -> int | None:
    """Return the axis of the weight that counts output channels, or None where no single axis does."""
    attributes = {a.name: a for a in layer.attribute}
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "Gemm":
        return 0 if "transB" in attributes and attributes["transB"].i else 1
    grouped = "group" in attributes and attributes["group"].i != 1
    return None if grouped else 1


def _along(factor: np.ndarray, weight: np.ndarray, layer: onnx.NodeProto) -> np.ndarray:
    shape = [1] * weight.ndim
    shape[_axis(layer) or 0] = -1
    return factor.reshape(shape)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads, where no branch could read them."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    nested = any(a.type == onnx.AttributeProto.GRAPH for node in graph.node for a in node.attribute)
    if nested:
        return  # a branch may read it; the stripper looks there too
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
