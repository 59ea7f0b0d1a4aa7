from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from paretune.artifact import Artifact, Certificate
from paretune.errors import InputError
from paretune.export import certify, save, strip, verify_folder
from paretune.files import sha256
from paretune.task import Task


@pytest.fixture(scope="module")
def certified(residual, residual_task, residual_export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = save(strip(residual_export.graph), folder / "artifacts" / "baseline.onnx")
    certify(path, residual, residual_task, kind="float")
    return folder


@pytest.fixture
def folder(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "run")


@pytest.fixture
def artifact(folder):
    return Artifact(folder / "artifacts" / "baseline.onnx")


def test_an_untouched_folder_holds(folder, artifact, residual_task):
    (found,) = verify_folder(folder, residual_task)
    assert found.ok and found.reasons == () and found.notes == ()
    assert found.artifact == artifact.path
    assert [check.batch for check in found.batches] == [1, 2, 3]
    assert found.metric["value"] == Certificate.load(artifact.certificate_path).metric["value"]
    json.dumps(found.to_json())


def test_a_folder_that_holds_the_files_themselves_is_taken_too(folder, residual_task):
    assert verify_folder(folder / "artifacts", residual_task)[0].ok


def test_a_changed_byte_is_found(folder, artifact, residual_task):
    content = bytearray(artifact.path.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.path.write_bytes(content)
    (found,) = verify_folder(folder, residual_task)
    assert not found.ok and "baseline.onnx was changed" in found.reasons[0]


def test_a_file_changed_together_with_its_digest_is_found_by_its_outputs(
    folder, artifact, residual_task, residual
):
    state = {name: value * 1.01 for name, value in residual.state_dict().items()}
    other = type(residual)().eval()
    other.load_state_dict(state)
    from paretune.export import export_onnx

    save(strip(export_onnx(other, residual_task.inputs()).graph), artifact.path)
    certificate = Certificate.load(artifact.certificate_path)
    dataclasses.replace(certificate, sha256=sha256(artifact.path)).save(artifact.certificate_path)
    (found,) = verify_folder(folder, residual_task)
    assert not found.ok and "at batch 1: differs from its reference" in found.reasons[0]


def test_a_changed_reference_is_found(folder, artifact, residual_task):
    with np.load(artifact.reference_path) as stored:
        content = dict(stored)
    content["output/1/logits"] = content["output/1/logits"] * 2
    np.savez(artifact.reference_path, **content)
    assert "baseline.reference.npz was changed" in verify_folder(folder, residual_task)[0].reasons[0]


@pytest.mark.parametrize("name", ["path", "reference_path"])
def test_a_missing_file_is_found(folder, artifact, residual_task, name):
    getattr(artifact, name).unlink()
    (found,) = verify_folder(folder, residual_task)
    assert not found.ok and found.reasons[0].endswith("is missing")


def restate(artifact, **metric):
    certificate = Certificate.load(artifact.certificate_path)
    dataclasses.replace(certificate, metric={**certificate.metric, **metric}).save(artifact.certificate_path)


@pytest.mark.parametrize(("samples", "ok"), [(1, True), (2, False)])
def test_the_metric_may_differ_by_one_sample(folder, artifact, residual_task, samples, ok):
    value = Certificate.load(artifact.certificate_path).metric["value"]
    restate(artifact, value=value + samples / 40)
    (found,) = verify_folder(folder, residual_task)
    assert found.ok == ok
    assert ok or "accuracy is" in found.reasons[0]


def test_a_metric_on_fewer_samples_than_certified_does_not_agree(folder, artifact, residual, residual_task):
    images, labels = residual_task.val
    fewer = Task(model=residual, val=(images[:39], labels[:39]), example=images[:1])
    (found,) = verify_folder(folder, fewer)
    assert not found.ok and "on 39 samples of val, certified was" in found.reasons[0]


def test_another_metric_does_not_agree(folder, residual, residual_task):
    other = Task(model=residual, val=residual_task.val, example=residual_task.example, metric="f1")
    assert "certified was accuracy, the task's metric is f1" in verify_folder(folder, other)[0].reasons[0]


def test_without_a_task_the_metric_is_left_out_and_a_note_says_so(folder):
    (found,) = verify_folder(folder)
    assert found.ok and found.metric == {}
    assert any("no recipe.yaml" in note for note in found.notes)


def test_the_task_of_the_recipe_is_used(folder, residual_task, tmp_path, artifact):
    torch.save(residual_task.val, tmp_path / "val.pt")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom paretune import Task\n"
        f"def make(): return Task(model=torch.nn.Identity(), val=torch.load({str(tmp_path / 'val.pt')!r}))\n"
    )
    (folder / "recipe.yaml").write_text(f"task: {tmp_path / 'mine.py'}:make\n")
    (found,) = verify_folder(folder)
    assert found.ok and found.metric["n"] == 40 and found.notes == ()


@pytest.mark.parametrize(
    ("recipe", "note"),
    [("task: nowhere.py:make", "no file nowhere.py"), ("seed: 1", "names no task"), ("{", "while parsing")],
)
def test_a_recipe_whose_task_does_not_load_is_a_note(folder, recipe, note):
    (folder / "recipe.yaml").write_text(recipe)
    (found,) = verify_folder(folder)
    assert found.ok and any(note in text for text in found.notes)


def test_a_certificate_that_failed_then_does_not_hold_now(folder, artifact, residual_task):
    certificate = Certificate.load(artifact.certificate_path)
    checks = tuple(dataclasses.replace(c, ok=False, diverges_at="node_7 (Conv)") for c in certificate.batches)
    dataclasses.replace(certificate, batches=checks).save(artifact.certificate_path)
    (found,) = verify_folder(folder, residual_task)
    assert not found.ok and "says that it failed at node_7 (Conv)" in found.reasons[0]


def test_a_damaged_certificate_is_a_reason_not_a_crash(folder, artifact, residual_task):
    artifact.certificate_path.write_text("{")
    (found,) = verify_folder(folder, residual_task)
    assert not found.ok and "no readable certificate" in found.reasons[0]


def test_a_folder_without_certificates_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="holds no certificate"):
        verify_folder(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        verify_folder(tmp_path / "gone")
