"""The step of an INT8 file's output grid: what one unit in the last place of its output is worth."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

PASSES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
"""Operators that move values without changing them."""


def output_steps(graph: onnx.ModelProto, reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the step of each output.

    An output that comes from a DequantizeLinear has that node's scale (the largest, where there are several).
    One that is computed in float has no grid of its own: its step is the one it would have if it were quantized
    as the other activations are, its range over the reference, zero included, in 255 steps.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    return {
        name: _scale(name, makers, constants) or _range_step(values)
        for name, values in reference.items()
        if np.issubdtype(values.dtype, np.floating)
    }


def _scale(name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> float | None:
    node = makers.get(name)
    while node is not None and node.op_type in PASSES:
        node = makers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
        return None
    return float(np.max(numpy_helper.to_array(constants[node.input[1]])))


def _range_step(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    return float(max(finite.max(), 0) - min(finite.min(), 0)) / 255 or 1.0
