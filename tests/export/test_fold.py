from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from paretune.export import fold_batch_norms, session

NORM = {"scale": [2.0, 1.0], "shift": [1.0, 0.0], "mean": [3.0, 0.0], "var": [4.0, 1.0]}


def graph_of(layer: str, weight: np.ndarray, x: tuple, y: tuple, norm=NORM, extra=(), bias=None, **attributes):
    """Return x -> layer -> BatchNormalization -> y; `extra` nodes and outputs read the layer's output."""
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in norm.items()]
    constants.append(numpy_helper.from_array(weight.astype(np.float32), "weight"))
    inputs = ["x", "weight"]
    if bias is not None:
        constants.append(numpy_helper.from_array(np.float32(bias), "bias"))
        inputs.append("bias")
    nodes = [
        helper.make_node(layer, inputs, ["h"], **attributes),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["y"], epsilon=0.0),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in extra]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    graph = helper.make_graph(nodes, "g", [entry], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model.SerializeToString(), optimize=False).run(["y"], {"x": x.astype(np.float32)})[0]


def test_by_hand():
    # y = 2 (5 x + 1 - 3) / sqrt(4) + 1 = 5 x - 1 and y = (7 x + 2 - 0) / 1 + 0 = 7 x + 2
    model = graph_of("Conv", np.float32([5, 7]).reshape(2, 1, 1), ("n", 1, 4), ("n", 2, 4), bias=[1.0, 2.0])
    assert fold_batch_norms(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    folded = [constants[name].ravel().tolist() for name in model.graph.node[0].input[1:]]
    assert folded == [[5.0, 7.0], [-1.0, 2.0]]
    assert len(constants) == 2, "what nothing reads any more is gone"


@pytest.mark.parametrize(
    ("layer", "weight", "x", "attributes"),
    [
        ("Conv", (4, 3, 3, 3), (2, 3, 5, 5), {}),
        ("Conv", (4, 1, 3, 3), (2, 2, 5, 5), {"group": 2}),
        ("ConvTranspose", (3, 4, 2, 2), (2, 3, 5, 5), {}),
        ("Gemm", (4, 3), (2, 3), {"transB": 1}),
        ("Gemm", (3, 4), (2, 3), {"beta": 0.5, "alpha": 2.0}),
    ],
)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_folded_graph_computes_what_the_graph_computed(layer, weight, x, attributes, seed):
    rng = np.random.default_rng(seed)
    if layer == "Conv" and attributes:
        weight = (4, 1, 3, 3)
    norm = {name: rng.normal(size=4) for name in ("scale", "shift", "mean")} | {"var": rng.uniform(0.2, 3, 4)}
    model = graph_of(
        layer, rng.normal(size=weight), ("n", *x[1:]), None, norm=norm, bias=rng.normal(size=4), **attributes
    )
    inputs = rng.normal(size=x)
    before = run(model, inputs)
    assert fold_batch_norms(model) == 1
    np.testing.assert_allclose(run(model, inputs), before, rtol=1e-4, atol=1e-4)


def test_a_layer_whose_output_is_read_elsewhere_is_left_alone():
    model = graph_of("Conv", np.ones((2, 1, 1)), ("n", 1, 4), ("n", 2, 4), extra=("h",))
    before = model.SerializeToString()
    assert fold_batch_norms(model) == 0
    assert model.SerializeToString() == before


def test_a_grouped_transposed_convolution_is_left_alone():
    # its weight's axis 1 counts the channels of one group only
    model = graph_of("ConvTranspose", np.ones((2, 1, 1)), ("n", 2, 4), ("n", 2, 4), group=2)
    assert fold_batch_norms(model) == 0


def test_a_weight_that_serves_two_layers_gets_a_copy_for_each():
    model = graph_of("Conv", np.ones((2, 1, 1)), ("n", 1, 4), ("n", 2, 4))
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["h2"]),
        helper.make_node("Sub", ["y", "h2"], ["z"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "z"
    inputs = np.float32([[[1.0, 2.0, 3.0, 4.0]]])
    before = session(model.SerializeToString()).run(["z"], {"x": inputs})[0]
    assert fold_batch_norms(model) == 1
    after = session(model.SerializeToString()).run(["z"], {"x": inputs})[0]
    np.testing.assert_allclose(after, before, rtol=1e-6)
