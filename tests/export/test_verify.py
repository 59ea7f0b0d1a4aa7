from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from paretune.artifact import Artifact, BatchCheck, Certificate
from paretune.errors import InputError, VerificationError
from paretune.export import certify, export_onnx, run_file, save, strip
from paretune.export._verify import batch_checks
from paretune.files import sha256
from paretune.quantize._static import saturates
from paretune.target import fingerprint
from paretune.task import Task


@pytest.fixture
def residual_file(residual_export, tmp_path):
    return save(strip(residual_export.graph), tmp_path / "residual.onnx")


def broken(exported, kind: str, which: int):
    """Return the stripped graph with one weight of its `which`-th node of that operator changed."""
    graph = strip(exported.graph)
    node = [node for node in graph.graph.node if node.op_type == kind][which]
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return graph


def test_a_right_float_file_gets_its_certificate(residual, residual_task, residual_file):
    certificate = certify(residual_file, residual, residual_task, kind="float")
    assert certificate.ok and certificate.kind == "float" and certificate.tolerance == 1e-4
    assert [check.batch for check in certificate.batches] == [1, 2, 3] and certificate.fixed_batch is None
    assert all(check.error < 1e-5 for check in certificate.batches)
    assert certificate.sha256 == sha256(residual_file)
    assert certificate.metric["n"] == 40 and certificate.metric["name"] == "accuracy"
    assert certificate.metric["split"] == "val", "there is no test data, so it says what it was measured on"
    assert {"torch", "onnx", "onnxruntime", "paretune"} <= set(certificate.versions)
    artifact = Artifact(residual_file)
    assert Certificate.load(artifact.certificate_path) == certificate
    assert sha256(artifact.reference_path) == certificate.reference_sha256


def test_the_reference_holds_real_samples_and_what_pytorch_makes_of_them(residual, residual_task, residual_file):
    certify(residual_file, residual, residual_task, kind="float", split=None)
    with np.load(Artifact(residual_file).reference_path, allow_pickle=False) as stored:
        images = torch.from_numpy(stored["input/image"])
        assert torch.equal(images, residual_task.val[0][:3])
        for batch in (1, 2, 3):
            with torch.no_grad():
                expected = residual(images[:batch])["logits"]
            torch.testing.assert_close(torch.from_numpy(stored[f"output/{batch}/logits"]), expected)
        assert json.loads(str(stored["spec"]))["batches"] == [1, 2, 3]
    assert Artifact(residual_file).reference_path.stat().st_size < 20_000


@pytest.mark.parametrize(
    ("kind", "which", "module"), [("Conv", 0, "stem"), ("Conv", 1, "middle"), ("Gemm", 0, "head")]
)
def test_one_altered_weight_fails_and_the_right_node_is_named(
    residual, residual_task, residual_export, tmp_path, kind, which, module
):
    path = save(broken(residual_export, kind, which), tmp_path / "broken.onnx")
    certificate = certify(path, residual, residual_task, kind="float", exported=residual_export, split=None)
    assert not certificate.ok
    assert all(f"({kind} in {module})" in check.diverges_at for check in certificate.batches)
    assert not Certificate.load(Artifact(path).certificate_path).ok


def test_a_file_of_another_model_names_no_node_but_says_so(residual_task, residual, tmp_path):
    class Doubled(nn.Module):
        def forward(self, image):
            return {"logits": 2 * residual(image)["logits"]}

    exported = export_onnx(Doubled(), residual_task.inputs())
    path = save(strip(exported.graph), tmp_path / "other.onnx")
    certificate = certify(path, residual, residual_task, kind="float", exported=exported, split=None)
    assert not certificate.ok
    assert "the capture differs from the model" in certificate.batches[0].diverges_at
    assert certificate.batches[0].error == pytest.approx(1.0, rel=1e-3)  # |2 y - y| / |y|


def test_a_file_of_fixed_batch_is_checked_at_that_batch(unrolled, unrolled_export, tmp_path):
    path = save(strip(unrolled_export.graph), tmp_path / "fixed.onnx")
    task = Task(model=unrolled, example=torch.randn(2, 4))
    certificate = certify(path, unrolled, task, kind="float", split=None)
    assert certificate.ok and certificate.fixed_batch == 2
    assert [check.batch for check in certificate.batches] == [2]


def test_without_data_the_example_is_varied_and_indices_are_repeated(tmp_path):
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 3)

        def forward(self, tokens, gain):
            return self.embedding(tokens).mean(1) * gain

    model = Lookup().eval()
    task = Task(model=model, example={"tokens": torch.tensor([[1, 3]]), "gain": torch.tensor([[2.0]])})
    path = save(strip(export_onnx(model, task.inputs()).graph), tmp_path / "lookup.onnx")
    assert certify(path, model, task, kind="float", split=None).ok
    with np.load(Artifact(path).reference_path) as stored:
        assert stored["input/tokens"].tolist() == [[1, 3]] * 3
        gains = stored["input/gain"].ravel()
        assert gains[0] == 2.0 and len(set(gains)) == 3


class Reader(CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter([{"image": images}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def int8_file(residual_export, residual_task, tmp_path_factory):
    """Return (int8 file, float file): quantized by ONNX Runtime's own tool, an implementation that is not ours."""
    folder = tmp_path_factory.mktemp("int8")
    source = save(strip(residual_export.graph), folder / "float.onnx")
    quantize_static(
        source, folder / "int8.onnx", Reader(residual_task.val[0].numpy()), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        reduce_range=saturates(fingerprint()),
    )  # fmt: skip
    return folder / "int8.onnx", source


def test_an_int8_file_is_checked_against_its_own_graph_and_its_drop_reported(int8_file, residual_task):
    path, source = int8_file
    certificate = certify(path, None, residual_task, kind="int8", float_path=source)
    assert certificate.ok and certificate.tolerance == 1.0
    images = residual_task.val[0][:3]
    a, b = run_file(path, images)["logits"], run_file(source, images)["logits"]
    drop = float((a - b).abs().max() / b.abs().max())
    assert certificate.drop_against_float >= drop * 0.999
    assert 0 < certificate.drop_against_float < 0.2
    assert all(check.node_error is not None and check.node_error <= 1 for check in certificate.batches)


def test_judgement_of_int8_outputs():
    def judged(error, node_error, kind="int8", tolerance=1.0):
        batches = [{"batch": 1, "error": error, "node_error": node_error}]
        return batch_checks({"kind": kind, "tolerance": tolerance, "batches": batches})[0].ok

    assert judged(1.0000002, None) and judged(2.0, 1.0)
    assert not judged(2.0, None) and not judged(2.0, 2.0) and not judged(1.1, 1.1)
    assert not judged(1.01e-4, None, "float", 1e-4)


def test_a_float_file_needs_its_model(residual_file, residual_task):
    with pytest.raises(VerificationError, match="is compared with its PyTorch model"):
        certify(residual_file, None, residual_task, kind="float")


def test_a_model_with_other_outputs_is_a_verification_error(residual_file, residual_task):
    class More(nn.Module):
        def forward(self, image):
            return image.mean((1, 2)), image

    with pytest.raises(VerificationError, match="it has 1 outputs at batch 1, the model 2"):
        certify(residual_file, More(), residual_task, kind="float")


def test_data_that_the_file_does_not_take_is_an_input_error(residual_export, residual, tmp_path):
    path = save(residual_export.graph, tmp_path / "m.onnx")
    task = Task(
        model=residual, val=(torch.zeros(4, 3, 8, 8), torch.zeros(4).long()), example=torch.zeros(1, 3, 8, 8)
    )
    with pytest.raises(InputError, match=r"it was given image \[1, 3, 8, 8\]"):
        certify(path, None, task, kind="int8")


def test_the_graph_on_disk_is_what_is_checked(residual, residual_task, residual_file):
    onnx.save(broken_copy(residual_file), residual_file)
    assert not certify(residual_file, residual, residual_task, kind="float", split=None).batches[0].ok


def broken_copy(path):
    graph = onnx.load(path)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    return graph


def test_a_check_is_plain_data():
    assert BatchCheck(batch=1, error=0.0, ok=True).diverges_at is None
