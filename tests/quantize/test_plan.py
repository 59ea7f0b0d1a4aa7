from __future__ import annotations

import numpy as np
import pytest

from paretune.quantize._canonical import canonical
from paretune.quantize._plan import left_in_float, make_plan

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def plan_of(model, skip=()):
    return make_plan(canonical(model).graph, skip)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        ("Conv(x4, w)", (6, 3, 1, 1), 0),
        ("Gemm(x, w)", (8, 6), 1),
        ("Gemm<transB=1>(x, w)", (6, 8), 0),
        ("MatMul(x, w)", (8, 6), 1),
    ],
)
def test_the_channel_axis_of_each_layout(graph_of, layer, shape, axis):
    inputs = "float[N,3,4,4] x4" if "x4" in layer else "float[N,8] x"
    output = "float[N,6,4,4] y" if "x4" in layer else "float[N,6] y"
    model = graph_of(f"({inputs}) => ({output}) {{ y = {layer} }}", w=weight(*shape))
    assert plan_of(model).compute == {"y": axis}


def test_a_transposed_convolution_is_stored_in_8_bits_and_said_to_compute_in_float(graph_of):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,5,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }", w=weight(3, 5, 2, 2)
    )
    plan = plan_of(model)
    assert plan.stored == {"y": 1} and not plan.compute
    assert "ConvTranspose" in left_in_float(model.graph, plan)[0]


@pytest.mark.parametrize(
    "layer", ["Gemm<alpha=0.5>(x, w)", "Gemm<transA=1>(x, w)", "Gemm(x, w, wide)", "MatMul(w, x)"]
)
def test_what_the_integer_kernels_do_not_take_stays_in_float_and_is_named(graph_of, layer):
    model = graph_of(f"(float[8,8] x) => (float[8,8] y) {{ y = {layer} }}", w=weight(8, 8), wide=weight(8, 8))
    assert not plan_of(model).compute
    if "MatMul" not in layer:
        assert "of a kind that the integer kernels do not take" in left_in_float(model.graph, plan_of(model))[0]


def test_a_product_of_two_activations_stays_in_float(graph_of):
    model = graph_of(
        "(float[N,8] x) => (float[N,N] y) { a = MatMul(x, w) b = Transpose(a) y = MatMul(a, b) }", w=weight(8, 8)
    )
    plan = plan_of(model)
    assert list(plan.compute) == ["a"] and not plan.carriers
    assert plan.observed == ["x"]  # and what only float nodes read gets no grid


def test_a_relu_vanishes_into_the_grid_before_it_through_a_pool(graph_of):
    model = graph_of(
        """(float[N,3,4,4] x) => (float[N,3,2,2] y) {
            a = Conv(x, w)  b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  c = Relu(b)  y = Conv(c, w)
        }""",
        w=weight(3, 3, 1, 1),
    )
    plan = plan_of(model)
    assert plan.absorbed == {"a": "c"} and plan.bounds == {"c": (0.0, float("inf"))}
    assert plan.observed == ["x", "c", "y"]


def test_a_relu_behind_a_value_that_others_read_gets_its_own_grid(graph_of):
    model = graph_of(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
            a = Conv(x, w)  b = Relu(a)  c = Conv(b, w)  d = Add(a, c)  y = Conv(d, w)
        }""",
        w=weight(3, 3, 1, 1),
    )
    plan = plan_of(model)
    assert plan.absorbed == {} and plan.joins == {"d"}
    assert plan.observed == ["x", "a", "b", "c", "d", "y"]


@pytest.mark.parametrize(
    ("bounds", "taken"), [((0.0, 6.0), True), ((-1.0, 1.0), True), ((0.5, 2.0), False), ((-3.0, -1.0), False)]
)
def test_a_clip_vanishes_only_if_its_bounds_hold_zero(graph_of, bounds, taken):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Conv(x, w)  b = Clip(a, low, high)  y = Conv(b, w) }",
        w=weight(3, 3, 1, 1),
        low=np.float32(bounds[0]),
        high=np.float32(bounds[1]),
    )
    assert plan_of(model).bounds == ({"b": bounds} if taken else {})


def test_an_add_that_only_float_nodes_read_stays_in_float(graph_of):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Conv(x, w)  b = Conv(a, w)  c = Add(a, b)  y = Tanh(c) }",
        w=weight(3, 3, 1, 1),
    )
    assert not plan_of(model).joins


def test_skip_matches_node_names_and_modules(graph_of):
    model = graph_of(
        "(float[N,8] x) => (float[N,8] y) { a = Gemm(x, first)  y = Gemm(a, second) }",
        first=weight(8, 8),
        second=weight(8, 8),
    )
    for old, new in (("first", "body.0.weight"), ("second", "head.weight")):
        for tensor in model.graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
    model.graph.node[0].name = "node_linear"
    for glob, left in (("head", ["a"]), ("body.*", ["y"]), ("node_lin*", ["y"]), ("*", [])):
        assert list(plan_of(model, [glob]).compute) == left
