"""Node by node: what rounding adds up to over many layers, and what a wrong kernel would look like."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretune.export import session
from paretune.export._nodewise import node_errors

GIVEN = {"x": np.float32([[0.0, 0.3, 0.9, 2.0]])}


def chain(layers: int) -> bytes:
    """x -> (Q -> DQ -> Mul by 1.5) per layer -> Q -> DQ."""
    constants = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.float32(1.5), "factor"),
    ]
    nodes, value = [], "x"
    for i in range(layers + 1):
        nodes.append(helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"q{i}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"d{i}"]))
        if i < layers:
            nodes.append(helper.make_node("Mul", [f"d{i}", "factor"], [f"m{i}"]))
            value = f"m{i}"
    nodes[-1].output[0] = "y"
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


def test_a_right_runtime_is_within_one_step_everywhere():
    error, _ = node_errors(chain(4), GIVEN, session, {"y": 0.1})
    assert error <= 1.0


class Wrong:
    """A runtime whose optimised run gets one quantized value wrong, and hands the error on to all that follow."""

    def __init__(self, running, name, by):
        self.running, self.name, self.by = running, name, by

    def run(self, names, feeds):
        return [
            array + np.asarray(self.by, array.dtype) if name == self.name else array
            for name, array in zip(names, self.running.run(names, feeds), strict=True)
        ]


@pytest.mark.parametrize("layer", [0, 2])
def test_a_wrong_kernel_is_found_and_named_though_its_error_grows_behind_it(layer):
    def opened(model, *, optimize):
        if not optimize:
            return session(model, optimize=False)
        broken = onnx.load_model_from_string(model)
        broken.graph.initializer.append(numpy_helper.from_array(np.float32(2.0), "wrong"))
        next(node for node in broken.graph.node if node.output[0] == f"m{layer}").input[1] = "wrong"
        return session(broken.SerializeToString())

    model = chain(4)
    error, node = node_errors(model, GIVEN, opened, {"y": 0.1})
    assert onnx.load_model_from_string(model).graph.node[node].output[0] == f"q{layer + 1}"
    into = 2.0 * 1.5**layer  # the largest value that reaches the broken node
    assert error == pytest.approx(into * 0.5 / 0.1, abs=2)  # (2 - 1.5) of it, in steps of 0.1


def test_nothing_is_said_where_exposing_values_changes_the_outputs():
    count = iter(range(10))

    def opened(model, *, optimize):
        running = session(model, optimize=optimize)
        return Wrong(running, "y", 0.5) if optimize and next(count) == 1 else running

    assert node_errors(chain(2), GIVEN, opened, {"y": 0.1}) is None


def test_a_float_graph_has_no_quantized_values(residual_export):
    model = residual_export.graph.SerializeToString()
    assert node_errors(model, {"image": np.zeros((1, 1, 8, 8), np.float32)}, session, {}) is None
