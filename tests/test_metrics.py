from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.errors import TaskError
from paretune.metrics import METRICS, Metric, main_output, resolve

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5]])  # classes 0 2 1 0
TARGET = torch.tensor([0, 1, 1, 2])


def _value(name, output, target):
    metric = METRICS[name]
    return metric.value(metric.rows(output, target).numpy())


def test_accuracy_by_hand():
    assert METRICS["accuracy"].rows(LOGITS, TARGET).tolist() == [[1.0], [0.0], [1.0], [0.0]]
    assert _value("accuracy", LOGITS, TARGET) == 0.5
    assert METRICS["accuracy"].fraction and METRICS["accuracy"].greater_is_better


def test_a_fraction_is_not_rounded_to_float32():
    assert METRICS["accuracy"].value(np.array([[1.0]] * 93 + [[0.0]] * 7, dtype=np.float32)) == 0.93


def test_top5_by_hand():
    logits = torch.arange(8.0).repeat(2, 1)  # the five largest are classes 3 to 7
    assert METRICS["top5"].rows(logits, torch.tensor([3, 2])).tolist() == [[1.0], [0.0]]
    assert _value("top5", LOGITS, TARGET) == 1.0  # three classes: always among the first five


def test_f1_by_hand():
    # class 0: 1 right, 1 false alarm -> 2/3; class 1: 1 right, 1 missed -> 2/3; class 2: nothing right -> 0
    assert _value("f1", LOGITS, TARGET) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert not METRICS["f1"].fraction


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_f1_equals_that_of_scikit_learn(seed, classes, count):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal((count, classes)))
    target = torch.from_numpy(rng.integers(0, classes, count))
    expected = sklearn.f1_score(target.numpy(), logits.argmax(1).numpy(), average="macro", zero_division=0)
    assert _value("f1", logits, target) == pytest.approx(expected)


def test_errors_by_hand():
    prediction, target = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    assert METRICS["mse"].rows(prediction, target).tolist() == [[0.5], [2.0]]
    assert _value("mse", prediction, target) == 1.25
    assert _value("rmse", prediction, target) == pytest.approx(1.25**0.5)
    assert not METRICS["mse"].greater_is_better and not METRICS["rmse"].greater_is_better
    assert _value("mse", torch.ones(3, 1), torch.tensor([0, 1, 3])) == pytest.approx(5 / 3)  # (n, 1) against (n,)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("target", [torch.tensor([1, 0, 0, 0]), torch.tensor([[1.0], [0.0], [0.0], [0.0]])])
def test_the_sign_of_a_single_logit_is_the_class(shape, target):
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).reshape(shape)  # classes 1 0 1 0
    assert METRICS["accuracy"].rows(logits, target).tolist() == [[1.0], [1.0], [0.0], [1.0]]
    # class 0: 2 right, 1 missed -> 4/5; class 1: 1 right, 1 false alarm -> 2/3
    assert _value("f1", logits, target) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_maps_of_labels_count_by_position():
    logits = torch.zeros(2, 3, 2, 2)
    logits[:, 1] = 1.0
    target = torch.ones(2, 2, 2, dtype=torch.long)
    target[0, 0] = 0
    assert METRICS["accuracy"].rows(logits, target).tolist() == [[0.5], [1.0]]
    with pytest.raises(TaskError, match="'f1' is for one label per sample"):
        METRICS["f1"].rows(logits, target)


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1"])
def test_several_labels_per_sample_are_refused(name):
    # (4, 1) against (4, 1, 3) would broadcast to a number without a meaning
    with pytest.raises(TaskError, match=r"one class index for each of \(4,\) predictions.*target is \(4, 3\)"):
        METRICS[name].rows(LOGITS, torch.ones(4, 3))


@dataclass
class _Output:
    hidden: torch.Tensor
    logits: torch.Tensor


@dataclass
class _Unnamed:
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"hidden": TARGET, "logits": LOGITS},
        {"hidden": TARGET, "predictions": LOGITS},
        _Output(TARGET, LOGITS),
        (LOGITS, TARGET),
        [[LOGITS]],
        {"only": LOGITS},
        _Unnamed(LOGITS, TARGET),
    ],
)
def test_main_output_finds_the_logits(output):
    assert main_output(output) is LOGITS


def test_an_output_without_tensor_is_said():
    with pytest.raises(TaskError, match=r"model's output \(int\) holds no tensor to score"):
        main_output(3)


def test_names_and_metrics_resolve():
    assert resolve("f1") is METRICS["f1"]
    assert resolve(METRICS["mse"]) is METRICS["mse"]
    with pytest.raises(TaskError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'\?"):
        resolve("acuracy")
    with pytest.raises(TaskError, match="cannot use a int"):
        resolve(3)


def _spread(outputs, targets):
    return (outputs.sum(dim=(1, 2)) - targets).abs().max()


def test_a_function_sees_outputs_and_targets_in_their_shapes_and_types():
    seen = []

    def metric(outputs, targets):
        seen.append((outputs.shape, targets.shape, targets.dtype))
        return _spread(outputs, targets)

    made = resolve(metric)
    outputs, targets = torch.rand(6, 2, 3), torch.arange(6)
    halves = (slice(0, 4), slice(4, 6))
    rows = torch.cat([made.rows({"logits": outputs[half]}, targets[half]) for half in halves])
    assert isinstance(made, Metric) and made.name == "metric" and made.greater_is_better
    assert made.value(rows.numpy()) == pytest.approx(_spread(outputs, targets).item())
    assert seen == [((6, 2, 3), (6,), torch.int64)]
    assert made.value(rows.numpy()[[0, 0]]) == pytest.approx(_spread(outputs[[0, 0]], targets[[0, 0]]).item())


def test_a_functions_direction():
    def error(outputs, targets):
        return 0.0

    error.greater_is_better = False
    assert not resolve(error).greater_is_better
