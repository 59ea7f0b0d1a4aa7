"""Small ONNX files, written node by node."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def write(tmp_path):
    """Return write(name, shapes={input: shape}, nodes=..., types={input: type}, weights={}) -> path."""

    def write_file(name, shapes, nodes, *, types=None, weights=None, outputs=("y",)):
        types = types or {}
        graph = helper.make_graph(
            nodes,
            "test",
            [
                helper.make_tensor_value_info(key, types.get(key, TensorProto.FLOAT), shape)
                for key, shape in shapes.items()
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
            [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()],
        )
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return write_file


@pytest.fixture
def relu(write):
    """A file that computes max(x, 0) of (batch, 3)."""
    return write("relu.onnx", {"x": ["batch", 3]}, [helper.make_node("Relu", ["x"], ["y"])])


@pytest.fixture
def product(write):
    """Return product(size) -> a file that multiplies (batch, size) by size x size, 4 times."""

    def product_file(size):
        weight = np.full((size, size), 1 / size, np.float32)
        nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in ("xa", "ab", "bc", "cy")]
        return write(f"product{size}.onnx", {"x": ["batch", size]}, nodes, weights={"w": weight})

    return product_file
