from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretune.export._grid import output_steps


def graph(*nodes):
    constants = [
        numpy_helper.from_array(np.float32(0.25), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.int64([-1]), "shape"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    return helper.make_model(helper.make_graph(list(nodes), "g", info[:1], info[1:], constants))


QUANTIZE = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])


def test_the_step_is_the_scale_of_the_last_dequantizer():
    model = graph(QUANTIZE, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]))
    assert output_steps(model, {"y": np.float32([1.0])}) == {"y": 0.25}


def test_reshapes_behind_it_change_nothing():
    model = graph(
        QUANTIZE,
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["y"]),
    )
    assert output_steps(model, {"y": np.float32([1.0])}) == {"y": 0.25}


@pytest.mark.parametrize(
    ("values", "step"),
    [([-255.0, 255.0], 2.0), ([255.0, 510.0], 2.0), ([-510.0], 2.0), ([0.0, 0.0], 1.0), ([np.inf, 255.0], 1.0)],
)
def test_a_float_output_has_its_range_in_255_steps(values, step):
    model = graph(helper.make_node("Relu", ["x"], ["y"]))
    assert output_steps(model, {"y": np.float32(values)}) == {"y": step}


def test_whole_numbers_have_no_grid():
    assert output_steps(graph(helper.make_node("Relu", ["x"], ["y"])), {"y": np.int64([3])}) == {}
