"""The written graph against a simulation by hand, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from paretune.quantize import static
from paretune.quantize._grid import affine, round_trip
from paretune.quantize._static import saturates
from paretune.target import fingerprint

LARGEST = 64 if saturates(fingerprint()) else 127  # of weights, on this machine

RNG = np.random.default_rng(0)
CONV = """(float[N,3,5,5] x) => (float[N,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, v, c)
}"""


def values(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def net(graph_of):
    return graph_of(CONV, w=values(6, 3, 3, 3), b=values(6), v=values(4, 6), c=values(4))


def simulated(model: onnx.ModelProto, batch: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what fake quantization gives, in plain NumPy: min-max over `batch`, float arithmetic between."""
    w, b, v, c = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)

    def fake(weight):
        scale = np.abs(weight).reshape(len(weight), -1).max(1) / LARGEST
        wide = scale.reshape(-1, *[1] * (weight.ndim - 1))
        return np.clip(np.rint(weight / wide), -LARGEST, LARGEST) * wide

    def conv(x, weight):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, weight) + b[None, :, None, None]

    reference = np.maximum(conv(batch, w), 0)
    pooled = reference.mean((2, 3))

    def grid(seen):
        return affine(float(seen.min()), float(seen.max()))

    x = round_trip(x, *grid(batch))
    x = round_trip(np.maximum(conv(x, fake(w)), 0), *grid(reference))
    x = round_trip(x.mean((2, 3)), *grid(pooled))
    return x @ fake(v).T + c


@pytest.mark.parametrize("optimize", [False, True])
def test_computes_what_fake_quantization_by_hand_computes(net, run, optimize):
    batch = values(16, 3, 5, 5)
    int8 = static(net, [{"x": batch}], method="minmax")
    x = values(8, 3, 5, 5)
    found = run(int8, {"x": x}, optimize=optimize)[0]
    difference = np.abs(found - simulated(net, batch, x))
    step = float(np.ptp(found)) / 255
    assert difference.max() <= step  # a tie inside may round either way
    assert np.median(difference) < 0.01 * step


def test_runs_in_integer_kernels_from_end_to_end(net, kernels):
    found = kernels(static(net, [{"x": values(4, 3, 5, 5)}]))
    assert found["QLinearConv"] == found["QGemm"] == found["QLinearGlobalAveragePool"] == 1
    assert found["QuantizeLinear"] == 1 and not found["DequantizeLinear"]
    assert not found["Relu"] + found["Conv"] + found["Gemm"]


def test_a_zero_point_of_zero_is_left_out_and_equal_ones_are_shared(net):
    int8 = static(net, [{"x": np.abs(values(4, 3, 5, 5))}])
    relu = next(node for node in int8.graph.node if node.output[0] == "r:q")
    assert len(relu.input) == 2
    scalars = [t.name for t in int8.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
    assert len(scalars) == len(
        {
            onnx.numpy_helper.to_array(t).item()
            for t in int8.graph.initializer
            if t.data_type == onnx.TensorProto.UINT8
        }
    )
    assert {t.data_type for t in int8.graph.initializer if len(t.dims) > 1} == {onnx.TensorProto.INT8}


def test_carriers_move_integers_and_a_zero_pad_pads_with_the_zero_point(graph_of, run, kernels):
    model = graph_of(
        """(float[N,2,4,4] x) => (float[N,4,4,4] y) {
            a = Conv(x, w)  s = Slice(a, start, end, axis)  p = Pad(s, pads)  t = Transpose<perm=[0,1,3,2]>(p)
            r = Reshape(t, shape)  y = Conv(r, v)
        }""",
        w=values(3, 2, 1, 1), v=values(4, 4, 1, 1), start=np.array([0]), end=np.array([2]), axis=np.array([1]),
        pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]), shape=np.array([-1, 4, 4, 4]),
    )  # fmt: skip
    x = values(3, 2, 4, 4) + 1
    int8 = static(model, [{"x": x}])
    onnx.checker.check_model(int8, full_check=True)
    found = kernels(int8)
    assert found["QLinearConv"] == 2 and found["QuantizeLinear"] == found["DequantizeLinear"] == 1
    expected = run(model, {"x": x})[0]
    noise = run(int8, {"x": x})[0] - expected
    assert 10 * np.log10(np.square(expected).sum() / np.square(noise).sum()) > 35


def test_a_value_that_many_read_is_quantized_and_dequantized_once(graph_of, run):
    model = graph_of(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] a) {
            a = Conv(x, w)  b = Conv(a, w)  c = Conv(a, w)  d = Add(b, c)  e = Add(a, d)  t = Tanh(a)
            m = Add(e, t)  y = Conv(e, w)
        }""",
        w=values(3, 3, 1, 1),
    )
    int8 = static(model, [{"x": values(2, 3, 4, 4)}])
    kinds = Counter(node.op_type for node in int8.graph.node)
    assert kinds["QuantizeLinear"] == 7  # x a b c d e y
    assert kinds["DequantizeLinear"] == 7 + 1  # and the weights that four nodes share, once
    assert [value.name for value in int8.graph.output] == ["y", "a"]
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in int8.graph.initializer) == 1


def test_shared_weights_with_biases_that_need_other_scales_are_stored_twice(graph_of, run):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Conv(x, w, b)  y = Conv(a, w, c) }",
        w=np.full((3, 3, 1, 1), 1e-13, np.float32), b=np.full(3, 1.0, np.float32), c=np.full(3, 50.0, np.float32),
    )  # fmt: skip
    x = {"x": values(2, 3, 4, 4)}
    np.testing.assert_allclose(run(static(model, [x]), x)[0], run(model, x)[0], rtol=1e-2)


@pytest.mark.parametrize("reduce_range", [True, False])  # of no use here: what is computed in float keeps 8 bits
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_transposed_convolution_is_small_and_close(graph_of, run, kernels, per_channel, reduce_range):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,5,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w, b) }",
        w=values(3, 5, 2, 2), b=values(5),
    )  # fmt: skip
    x = {"x": values(2, 3, 4, 4)}
    int8 = static(model, [x], per_channel=per_channel, reduce_range=reduce_range)
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in int8.graph.initializer) == 1
    np.testing.assert_allclose(run(int8, x)[0], run(model, x)[0], atol=0.1)
    assert set(kernels(int8)) == {"ConvTranspose"}  # Cast and Mul are folded at load
