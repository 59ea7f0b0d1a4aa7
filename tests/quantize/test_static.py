from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from paretune.errors import DataError, InputError, RecipeError, RunError
from paretune.export import export_onnx, strip
from paretune.quantize import Static, static
from paretune.quantize._plan import make_plan
from paretune.quantize._static import _ranges, calibration_batches, saturates
from paretune.recipe import Context, parse_recipe
from paretune.task import Task


def snr(expected: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()))


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("name", ["residual", "mobile", "dense", "words"])
def test_int8_is_close_to_float_at_every_batch_on_nets_of_many_kinds(exported, feeds_of, run, name, method):
    graph = exported(name)
    int8 = static(graph, [feeds_of(name, 16, seed) for seed in range(3)], method=method)
    onnx.checker.check_model(int8, full_check=True)
    assert [value.name for value in int8.graph.output] == [value.name for value in graph.graph.output]
    assert int8.graph.input == graph.graph.input
    for batch in (1, 2, 3):
        feeds = feeds_of(name, batch, seed=100 + batch)
        for expected, found in zip(run(graph, feeds), run(int8, feeds), strict=True):
            assert found.dtype == np.float32 and found.shape == expected.shape
            assert snr(expected, found) > 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", {"QLinearConv": 4, "QLinearAdd": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
        ("mobile", {"QLinearConv": 6, "QGemm": 1}),
        ("dense", {"QLinearConv": 4, "QLinearConcat": 1, "QGemm": 1}),  # one of the four is an average pool
        ("words", {"QLinearConv": 1, "MatMulIntegerToFloat": 4, "QGemm": 1, "MatMul": 1}),  # attention is no layer
    ],
)
def test_every_layer_runs_in_an_integer_kernel(exported, feeds_of, kernels, name, expected):
    found = kernels(static(exported(name), [feeds_of(name, 8)]))
    assert {kind: found[kind] for kind in expected} == expected
    assert not found["Conv"] + found["Gemm"]


def test_a_residual_net_converts_only_its_input(exported, feeds_of, kernels):
    found = kernels(static(exported("residual"), [feeds_of("residual", 8)]))
    assert found["QuantizeLinear"] == 1 and not found["DequantizeLinear"]
    assert found["Pad"] == found["Slice"] == 1  # the option-A shortcut moves integers


def test_the_stripped_file_is_a_quarter_of_the_float_file(exported, feeds_of):
    graph = exported("residual")
    int8 = strip(static(graph, [feeds_of("residual", 8)]))
    weights = sum(np.prod(t.dims) for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert int8.ByteSize() < weights + 8 * (16 + 16 + 32 + 32 + 10) + 3_600  # int8, scales and biases, the graph


def test_the_float_graph_is_not_changed_and_the_same_data_give_the_same_file(exported, feeds_of):
    graph = exported("residual")
    before = graph.SerializeToString()
    files = [static(graph, [feeds_of("residual", 8)]).SerializeToString() for _ in range(2)]
    assert files[0] == files[1] and graph.SerializeToString() == before


def test_no_calibration_can_widen_a_grid_beyond_the_relu_that_vanished_into_it(graph_of):
    model = graph_of(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Conv(x, w)  r = Relu(a)  y = Conv(r, w) }",
        w=np.ones((3, 3, 1, 1), np.float32),
    )
    ranges = _ranges(
        model, make_plan(model.graph), [{"x": np.ones((1, 3, 4, 4), np.float32)}], lambda _: (-9.0, 9.0)
    )
    assert ranges == {"x": (-9.0, 9.0), "r": (0.0, 9.0), "y": (-9.0, 9.0)}


def test_a_skipped_module_stays_in_float(exported, feeds_of, kernels):
    graph = exported("residual")
    int8 = static(graph, [feeds_of("residual", 8)], skip=["last.*", "head"])
    floats = {t.name for t in int8.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1}
    assert floats == {"last.0.weight", "head.weight"}
    assert kernels(int8)["QLinearConv"] == 3


def test_seven_bit_weights_are_at_most_64(exported, feeds_of):
    int8 = static(exported("residual"), [feeds_of("residual", 8)], reduce_range=True)
    weights = [onnx.numpy_helper.to_array(t) for t in int8.graph.initializer if len(t.dims) > 1]
    assert max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8) == 64


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"architecture": "x86_64", "flags": ["avx2", "fma"]}, True),
        ({"architecture": "x86_64", "flags": ["avx512f"]}, True),
        ({"architecture": "x86_64", "flags": ["avx512f", "avx512_vnni"]}, False),
        ({"architecture": "AMD64", "flags": ["avx_vnni"]}, False),
        ({"architecture": "aarch64", "flags": ["asimd"]}, False),
    ],
)
def test_which_machines_saturate(machine, expected):
    assert saturates(machine) is expected


def test_an_output_beyond_the_calibrated_range_is_not_clipped(graph_of, run):
    model = graph_of(GEMM, w=np.ones((4, 3), np.float32))
    int8 = static(model, [{"x": np.array([[1, 1, -1, -1], [1, -1, 1, -1]], np.float32)}])
    assert run(int8, {"x": np.ones((1, 4), np.float32)})[0] == pytest.approx(4.0, rel=0.02)  # only 0 was seen


GEMM = "(float[N,4] x) => (float[N,3] y) { y = Gemm(x, w) }"


def test_errors_say_what_was_typed_and_what_to_do(graph_of):
    model = graph_of(GEMM, w=np.ones((4, 3), np.float32))
    data = [{"x": np.ones((2, 4), np.float32)}]
    with pytest.raises(InputError, match="skip 'hed' matches no node and no module"):
        static(model, data, skip=["hed"])
    with pytest.raises(InputError, match=r"no method 'mze' in calibrations\. Did you mean 'mse'\?"):
        static(model, data, method="mze")
    with pytest.raises(InputError, match="bits=4"):
        static(model, data, bits=4)
    with pytest.raises(DataError, match="needs at least one sample and got none"):
        static(model, [])
    with pytest.raises(InputError, match="nothing to quantize: the graph has no Conv"):
        static(graph_of("(float[N,4] x) => (float[N,4] y) { y = Tanh(x) }"), data)
    model.graph.node[0].name = "head"
    with pytest.raises(InputError, match="skip head leaves nothing to quantize"):
        static(model, data, skip=["head"])
    model.opset_import[0].version = 11
    with pytest.raises(InputError, match="opset 11; per-channel grids need 13"):
        static(model, data)


def test_nan_in_the_data_and_nan_from_the_graph_are_told_apart(graph_of):
    bad = np.ones((2, 4), np.float32)
    bad[1, 2] = np.nan
    model = graph_of(GEMM, w=np.ones((4, 3), np.float32))
    with pytest.raises(DataError, match="calibration batch 1 holds NaN or infinite values in input 'x'"):
        static(model, [{"x": np.ones((2, 4), np.float32)}, {"x": bad}])
    broken = graph_of(
        "(float[N,4] x) => (float[N,3] y) { a = Gemm(x, w)  y = Gemm(a, v) }",
        w=np.full((4, 4), 3e38, np.float32), v=np.ones((4, 3), np.float32),
    )  # fmt: skip
    with pytest.raises(RunError, match="makes NaN or infinite values at 'a' in calibration batch 0"):
        static(broken, [{"x": np.ones((2, 4), np.float32)}])


def test_a_layer_whose_output_is_always_zero_survives(graph_of, run):
    model = graph_of(
        "(float[N,4] x) => (float[N,3] y) { a = Gemm(x, w)  y = Gemm(a, v) }",
        w=np.zeros((4, 4), np.float32), v=np.ones((4, 3), np.float32),
    )  # fmt: skip
    x = {"x": np.ones((2, 4), np.float32)}
    assert run(static(model, [x]), x)[0].tolist() == [[0.0] * 3] * 2


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = torch.arange(50.0).reshape(50, 1, 1, 1) / 50 + torch.randn(50, 1, 8, 8) / 10
    return Task(model=model, train=(images, torch.zeros(50, dtype=torch.long)), example=images[:1])


@pytest.fixture(scope="module")
def graph(task) -> onnx.ModelProto:
    return export_onnx(task.build(), task.inputs()).graph


def test_the_step_calibrates_on_training_samples_in_the_seeds_order(task, graph):
    first = np.concatenate([feeds["x" if "x" in feeds else graph.graph.input[0].name]
                            for feeds in calibration_batches(graph, task, 20, seed=3)])  # fmt: skip
    order = np.random.default_rng([3, 0]).permutation(50)[:20]
    assert np.array_equal(first, task.train[0].numpy()[order])


def test_a_task_without_training_data_calibrates_on_validation_data(task, graph):
    other = Task(model=task.model, val=task.train, example=task.example)
    batches = list(calibration_batches(graph, other, 20, seed=0))
    assert sum(len(value) for feeds in batches for value in feeds.values()) == 20


def test_a_fixed_batch_is_kept(task, graph):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(graph)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    sizes = [len(value) for feeds in calibration_batches(fixed, task, 20, seed=0) for value in feeds.values()]
    assert sizes == [8, 8]


def test_the_step_in_a_recipe(task, graph, run):
    content = {"steps": [{"quantize.static": {"bits": 8, "calibration": 32, "skip": []}}]}
    step = parse_recipe(content).steps[0]
    assert step == Static(calibration=32)
    int8 = step.apply_graph(graph, task, Context())
    x = {graph.graph.input[0].name: task.train[0][:3].numpy()}
    assert snr(run(graph, x)[0], run(int8, x)[0]) > 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 4}, "bits=4: input should be 8"),
        ({"calibration": 0}, "calibration=0 must be at least 1"),
        ({"percentile": 50}, "percentile=50 must be above 50"),
        ({"method": "entropy"}, "no method 'entropy' in calibrations"),
        ({"reduce_range": "yes please"}, "reduce_range='yes please'"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_recipe({"steps": [{"quantize.static": fields}]})


def test_fallbacks_are_told(feeds_of, exported, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr("paretune.quantize._static.fingerprint", lambda: {"architecture": "x86_64", "flags": []})
    feeds = feeds_of("dense", 16)["x"]
    task = Task(model=nn.Identity(), train=(feeds, np.zeros(16, np.int64)))
    Static().apply_graph(exported("dense"), task, Context(emit=lambda kind, fields: notes.append(fields["text"])))
    assert any("no VNNI" in note for note in notes)
    assert any(note.startswith("up (ConvTranspose) computes in float") for note in notes)
