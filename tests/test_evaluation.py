"""Evaluations keep what each sample contributed, whatever batches they were computed in."""

import numpy as np
import pytest
import torch

from paretune.data import Data
from paretune.errors import DataError, RunError, TaskError
from paretune.evaluation import evaluate
from paretune.metrics import resolve
from paretune.statistics import wilson
from paretune.task import Task

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
LABELS = torch.tensor([0, 1, 1, 1])


def identity(inputs):
    return inputs


def data(inputs=LOGITS, target=LABELS):
    return Data((inputs, target), name="val")


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_accuracy_and_classes_by_hand(batch_size):
    seen = evaluate(identity, data(), resolve("accuracy"), batch_size=batch_size)
    assert seen.rows[:, 0].tolist() == [1, 1, 0, 1]
    assert (seen.value, seen.n) == (0.75, 4)
    assert (seen.low, seen.high) == pytest.approx(wilson(3, 4))
    assert seen.predicted.tolist() == [0, 1, 0, 1] and seen.target.tolist() == LABELS.tolist()
    assert seen.confidence == pytest.approx([1 / (1 + np.exp(-x)) for x in (2.0, 1.0, 3.0, 0.5)])


def test_limit_takes_the_first_samples():
    seen = evaluate(identity, data(), resolve("accuracy"), limit=3, batch_size=2)
    assert seen.rows[:, 0].tolist() == [1, 1, 0]


def test_regression_has_no_classes():
    inputs, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    seen = evaluate(identity, data(inputs, target), resolve("rmse"))
    assert seen.value == pytest.approx(2**0.5)  # sqrt((0 + 4) / 2)
    assert seen.predicted is None and seen.confidence is None
    assert seen.low <= seen.value <= seen.high


def test_a_dict_output_is_read_at_its_logits():
    seen = evaluate(lambda inputs: {"logits": inputs, "hidden": inputs}, data(), resolve("accuracy"))
    assert seen.value == 0.75


def test_no_gradients_are_kept():
    weight = torch.ones(2, requires_grad=True)
    flags = []
    evaluate(lambda inputs: flags.append((inputs * weight).requires_grad) or inputs, data(), resolve("accuracy"))
    assert flags == [False]


def test_data_without_targets_say_so():
    with pytest.raises(TaskError, match=r"task.val yields no target, and accuracy needs one"):
        evaluate(identity, Data([torch.zeros(2)], name="val"), resolve("accuracy"))


def test_a_metric_that_fails_names_itself_and_the_split():
    with pytest.raises(TaskError, match=r"task.metric 'mse' failed on a batch of task.val"):
        evaluate(identity, data(LOGITS, torch.zeros(4, 3)), resolve("mse"))


def test_json_is_the_metric_of_the_summary():
    content = evaluate(identity, data(), resolve("accuracy")).to_json()
    assert list(content) == ["name", "value", "low", "high", "n", "greater_is_better", "fraction"]
    assert content["name"] == "accuracy" and content["n"] == 4


def test_outputs_that_are_nan_are_told_and_not_ranked():
    rows = torch.randn(32, 4)
    rows[3, 2] = float("nan")
    model = torch.nn.Linear(4, 3)
    data = (rows, torch.arange(32) % 3)
    given = Task(name="rows", model=lambda: model, train=data, val=data)
    with pytest.raises(
        DataError, match=r"1 of 32 outputs on a batch of task.val are NaN, and so are some of its inp"
    ):
        evaluate(model, given.data("val"), given.resolved_metric())
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    rows[3, 2] = 0.0
    with pytest.raises(RunError, match="have diverged"):
        evaluate(model, given.data("val"), given.resolved_metric())
