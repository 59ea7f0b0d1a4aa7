"""Check an INT8 file node by node: each from the values that the kernels themselves computed before it.

A kernel and the graph as written round a value that lies between two steps to either side. Over the layers of a
deep network these single steps add up (a ResNet-56 ends up to two steps apart at its output, its kernels being
right), so that the outputs alone prove little. Here every quantized value of the optimised run is fed into the
graph as written, optimisations off, and only what one node makes of it is compared: no error is handed on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

OWN = "__own"


def node_errors(
    model: bytes, given: dict[str, np.ndarray], open_session: Any, steps: dict[str, float]
) -> tuple[float, int] | None:
    """Return the largest error in steps over all quantized values and outputs, and the node that makes it.

    given: input name -> array. open_session: (model, optimize=) -> session. The node is its index in the file.
    None where there is nothing to say: no quantized values, or exposing them changes what the kernels compute.
    """
    graph = onnx.load_model_from_string(model)
    quantized = _quantized(graph)
    if not quantized:
        return None
    outputs = [value.name for value in graph.graph.output]
    plain = open_session(model, optimize=True).run(outputs, given)
    seen = open_session(_exposed(graph, quantized), optimize=True).run([*outputs, *quantized], given)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(plain, seen, strict=False)):
        return None
    computed = dict(zip([*outputs, *quantized], seen, strict=True))
    fed = {**given, **{name: computed[name] for name in quantized}}
    rest = [name for name in outputs if name not in quantized]
    forced = open_session(_forced(graph, quantized, computed), optimize=False)
    got = forced.run([*[name + OWN for name in quantized], *rest], fed)
    makers = {name: index for index, node in enumerate(graph.graph.node) for name in node.output}
    errors = [
        (_error(computed[name], array, 1.0 if name in quantized else steps.get(name, 1.0)), makers.get(name, -1))
        for name, array in zip([*quantized, *rest], got, strict=True)
    ]
    return max(errors, key=lambda pair: pair[0])


def _quantized(graph: onnx.ModelProto) -> list[str]:
    """Return what QuantizeLinear makes of activations, in order."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    return [
        node.output[0]
        for node in graph.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    ]


def _exposed(graph: onnx.ModelProto, names: list[str]) -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    have = {value.name for value in graph.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return bytes(model.SerializeToString())


def _forced(graph: onnx.ModelProto, names: list[str], computed: dict[str, np.ndarray]) -> bytes:
    """Return the graph with each quantized value as an input, and what its node makes as an output."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    for node in model.graph.node:
        if node.output[0] in names:
            node.output[0] += OWN
    kept = [value for value in graph.graph.output if value.name not in names]
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend([*kept, *(onnx.ValueInfoProto(name=name + OWN) for name in names)])
    for name in names:
        kind = onnx.helper.np_dtype_to_tensor_dtype(computed[name].dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return bytes(model.SerializeToString())


def _error(a: np.ndarray, b: np.ndarray, step: float) -> float:
    if a.shape != b.shape:
        return float("inf")
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(difference.max()) / step if difference.size else 0.0
