from __future__ import annotations

import json

import pytest

from paretune.artifact import Artifact, BatchCheck, Certificate
from paretune.errors import InputError

CHECKS = (BatchCheck(1, 1e-6, True), BatchCheck(2, 0.5, False, diverges_at="conv (Conv)"))


def certificate(checks=CHECKS):
    return Certificate(
        artifact="m.onnx", sha256="ab", kind="float", tolerance=1e-4, batches=checks, metric={"value": 0.5}
    )


def test_one_failed_batch_fails_the_certificate():
    assert not certificate().ok
    assert certificate(CHECKS[:1]).ok


def test_it_reads_back_what_it_wrote(tmp_path):
    certificate().save(tmp_path / "m.certificate.json")
    assert Certificate.load(tmp_path / "m.certificate.json") == certificate()
    assert json.loads((tmp_path / "m.certificate.json").read_text())["ok"] is False


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"batches": [{"size": 1}]}'])
def test_a_damaged_certificate_is_an_input_error(tmp_path, content):
    (tmp_path / "m.certificate.json").write_text(content)
    with pytest.raises(InputError, match=r"m\.certificate\.json is no readable certificate"):
        Certificate.load(tmp_path / "m.certificate.json")


def test_its_companions_lie_beside_it(tmp_path):
    artifact = Artifact(tmp_path / "a.b.onnx")
    assert artifact.certificate_path == tmp_path / "a.b.certificate.json"
    assert artifact.reference_path == tmp_path / "a.b.reference.npz"


def test_external_weights_count(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"123")
    (tmp_path / "other.onnx").write_bytes(b"12345")
    assert Artifact(tmp_path / "m.onnx").bytes == 3
    (tmp_path / "m.onnx.data").write_bytes(b"1234567")
    assert Artifact(tmp_path / "m.onnx").bytes == 10
