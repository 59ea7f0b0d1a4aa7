from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from paretune.quantize import static
from paretune.quantize._canonical import canonical

RNG = np.random.default_rng(0)
NORM = """(float[N,3,6,6] x) => (float[N,4,6,6] y) {
    c = Conv<pads=[1,1,1,1]>(x, w)
    y = BatchNormalization(c, gamma, beta, mean, variance)
}"""


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_a_batch_norm_behind_a_convolution_is_folded_and_the_function_stays(graph_of, run):
    values = {name: RNG.uniform(0.5, 2, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    model = graph_of(NORM, w=RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), **values)
    folded = canonical(model)
    assert kinds(folded) == {"Conv": 1}
    x = {"x": RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(folded, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-5)


def test_a_batch_norm_before_a_convolution_becomes_a_depthwise_one(graph_of, run, kernels):
    values = {name: RNG.uniform(0.5, 2, 3).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    model = graph_of(
        """(float[N,3,6,6] x) => (float[N,4,4,4] y) <float[N,3,6,6] s> {
            a = Conv<pads=[1,1,1,1]>(x, v)  s = Add(a, x)  n = BatchNormalization(s, gamma, beta, mean, variance)
            r = Relu(n)  b = Conv<pads=[1,1,1,1]>(r, v)  t = Add(b, s)  y = Conv(t, w)
        }""",
        w=RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        v=RNG.normal(size=(3, 3, 3, 3)).astype(np.float32),
        **values,
    )
    x = {"x": RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)}
    written = canonical(model)
    assert kinds(written) == {"Conv": 4, "Add": 2, "Relu": 1}
    np.testing.assert_allclose(run(written, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)
    found = kernels(static(model, [x]))
    assert found["QLinearConv"] == 4 and found["QLinearAdd"] == 2
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = ReduceMean<keepdims=1>(x, plane)", {"GlobalAveragePool": 1}),
        ("y = ReduceMean<keepdims=0>(x, plane)", {"GlobalAveragePool": 1, "Flatten": 1}),
        ("y = ReduceMean<keepdims=0>(x, last)", {"ReduceMean": 1}),
        ("y = AveragePool<kernel_shape=[6,6]>(x)", {"GlobalAveragePool": 1}),
        ("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", {"Conv": 1}),
        ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)", {"Conv": 1}),
        ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", {"AveragePool": 1}),
        ("y = AveragePool<kernel_shape=[4,4], strides=[4,4], ceil_mode=1>(x)", {"AveragePool": 1}),
    ],
)
def test_averages_become_what_has_an_integer_kernel_and_compute_the_same(graph_of, run, text, expected):
    rank = 2 if "keepdims=0>(x, plane" in text else 3 if "last" in text else 4
    output = ",".join(["N", "A", "B", "C"][:rank])
    model = graph_of(
        f"(float[N,3,6,6] x) => (float[{output}] y) {{ {text} }}", plane=np.array([2, -1]), last=np.array([-1])
    )
    written = canonical(model)
    onnx.checker.check_model(written, full_check=True)
    assert kinds(written) == expected
    x = {"x": RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(written, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-6)


def test_the_graph_given_is_not_changed_and_constants_are_lifted(graph_of):
    model = graph_of("""(float[N,3] x) => (float[N,3] y) {
        one = Constant<value = float {1.0}>()
        y = Add(x, one)
    }""")
    before = model.SerializeToString()
    lifted = canonical(model)
    assert kinds(lifted) == {"Add": 1} and [tensor.name for tensor in lifted.graph.initializer] == ["one"]
    assert model.SerializeToString() == before
