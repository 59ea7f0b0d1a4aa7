from __future__ import annotations

import numpy as np
import pytest
import torch

from paretune.data import Data
from paretune.errors import InputError
from paretune.evaluation import evaluate
from paretune.export import Outputs, evaluate_file, run_file, runner, save, session, strip
from paretune.metrics import METRICS


@pytest.fixture(scope="module")
def residual_file(residual_export, tmp_path_factory):
    return save(strip(residual_export.graph), tmp_path_factory.mktemp("run") / "residual.onnx")


@pytest.fixture(scope="module")
def fixed_file(unrolled_export, tmp_path_factory):
    return save(strip(unrolled_export.graph), tmp_path_factory.mktemp("run") / "fixed.onnx")


def test_named_outputs_come_back_by_name_and_as_attributes(residual, residual_file):
    images = torch.randn(3, 1, 8, 8)
    outputs = run_file(residual_file, images)
    assert isinstance(outputs, Outputs) and list(outputs) == ["logits"]
    assert outputs.logits is outputs["logits"]
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, residual(images)["logits"])
    with pytest.raises(AttributeError, match=r"no output 'scores'; it has logits"):
        _ = outputs.scores


def test_keyword_inputs_go_by_name(residual_file):
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(
        run_file(residual_file, {"image": images}).logits, run_file(residual_file, (images,)).logits
    )


def test_a_file_of_fixed_batch_takes_any_batch_in_pieces(unrolled, fixed_file):
    run = runner(session(fixed_file))
    for batch in (1, 2, 5):
        inputs = torch.randn(batch, 4)
        with torch.no_grad():
            torch.testing.assert_close(run(inputs), unrolled(inputs))


def test_the_metric_from_the_file_is_the_models(residual, residual_task, residual_file):
    data, metric = residual_task.data("val"), METRICS["accuracy"]
    expected = evaluate(residual, data, metric)
    found = evaluate_file(residual_file, data, metric)
    assert found.n == 40 and found.value == expected.value
    assert np.array_equal(found.predicted, expected.predicted)
    assert evaluate_file(residual_file, data, metric, limit=7).n == 7


def test_the_metric_of_a_file_of_fixed_batch_counts_every_sample_once(unrolled, fixed_file):
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    data = Data((torch.randn(7, 4), labels), batch_size=3)
    found, expected = (evaluate(run, data, METRICS["accuracy"]) for run in (runner(session(fixed_file)), unrolled))
    assert found.n == 7 and np.array_equal(found.predicted, expected.predicted)


def test_inner_values_can_be_seen(residual_export):
    content = residual_export.graph.SerializeToString()
    running = session(content, optimize=False, outputs=["relu"])
    logits, relu = running.run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})
    assert logits.shape == (1, 4) and relu.shape == (1, 8, 8, 8) and relu.min() >= 0


@pytest.mark.parametrize("content", [b"", b"not an onnx file"])
def test_a_damaged_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.onnx is no file that ONNX Runtime"):
        session(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone\.onnx"):
        session(tmp_path / "gone.onnx")


def test_inputs_that_do_not_fit_say_what_the_file_takes(residual_file):
    with pytest.raises(InputError, match=r"takes image .*it was given image \[1, 3, 8, 8\]"):
        run_file(residual_file, torch.zeros(1, 3, 8, 8))
