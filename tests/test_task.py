import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from paretune.errors import DataError, InputError, TaskError
from paretune.evaluation import evaluate
from paretune.metrics import METRICS
from paretune.task import Task, load_task

X, Y = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2


def _task(**fields):
    return Task(**{"model": nn.Linear(3, 2), "train": (X, Y), "val": (X, Y)} | fields)


def test_build_never_hands_out_the_users_own_model():
    model = nn.Linear(3, 2)
    built = _task(model=model).build()
    built.weight.data.zero_()
    assert built is not model and model.weight.abs().sum() > 0
    assert isinstance(_task(model=lambda: nn.Linear(3, 2)).build(), nn.Linear)


def test_splits_fall_back_between_val_and_test_but_not_to_train():
    task = _task(test=None)
    assert len(task.data("test")) == 10 and task.data("val") is task.data("val")
    with pytest.raises(TaskError, match=r"this needs task\.val, and the task has none: Task\(val=\.\.\.\)"):
        _task(val=None).data("val")


def test_a_replaced_split_is_not_read_from_the_old_ones_cache():
    task = _task()
    task.data("train")
    assert len(dataclasses.replace(task, train=(X[:4], Y[:4])).data("train")) == 4


def test_the_example_is_the_one_given_or_the_first_of_val():
    assert torch.equal(_task().inputs(), X[:1])
    assert _task(example=X[3:4]).inputs() is not None
    assert torch.equal(_task(val=None).inputs(), X[:1])
    named = _task(val=({"a": X, "b": X}, Y))
    assert {name: tuple(value.shape) for name, value in named.inputs().items()} == {"a": (1, 3), "b": (1, 3)}


def test_named_losses_by_hand():
    def loss(name):
        return _task(loss=name).criterion()

    labels = torch.tensor([0, 1])
    assert loss("cross_entropy")(torch.zeros(2, 4), torch.tensor([0, 3])).item() == pytest.approx(math.log(4))
    assert loss("mse")(torch.tensor([[1.0], [3.0]]), labels).item() == pytest.approx(2.5)
    assert loss("l1")({"logits": torch.tensor([[1.0], [3.0]])}, labels).item() == pytest.approx(1.5)
    assert loss("binary_cross_entropy")(torch.zeros(2, 1), labels).item() == pytest.approx(math.log(2))
    assert loss("mse").__name__ == "mse"


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(kind):
    loss = _task().criterion()(torch.zeros(2, 4), torch.tensor([0, 3], dtype=kind))
    assert loss.item() == pytest.approx(math.log(4))


class _Named(nn.Module):
    def forward(self, a, b):
        return {"logits": a[:, :2] + b[:, :2]}


@pytest.mark.parametrize(
    "task",
    [
        _task(),
        _task(model=_Named(), train=({"a": X, "b": X}, Y), val=({"a": X, "b": X}, Y)),
        _task(model=_Named(), train=(X, X, Y), val=(X, X, Y)),
        _task(model=nn.Linear(3, 1), loss="binary_cross_entropy"),
        _task(model=nn.Linear(3, 1), loss="mse", metric="rmse"),
        _task(train=(X,)),  # unlabelled: distillation can use it
        _task(train=(X, Y.byte()), val=(X, torch.where(Y == 1, 1, -100))),
    ],
)
def test_good_tasks_pass_the_check(task):
    task.check()


class _Fixed(nn.Module):
    """Takes one batch size alone, as a reshape with a number in it does."""

    def __init__(self, batch):
        super().__init__()
        self.fc, self.batch = nn.Linear(3, 2), batch

    def forward(self, x):
        return self.fc(x.reshape(self.batch, 3))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_with_a_fixed_batch_passes_the_check_at_that_batch(batch):
    _task(model=_Fixed(batch), example=X[:batch], batch_size=batch).check()
    with pytest.raises(TaskError, match=r"task\.train \(\(2, 3\) float32\): RuntimeError: shape"):
        _task(model=_Fixed(batch), example=X[:batch], batch_size=5).check()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))}, TaskError, r"task\.loss fails on a batch"),
        ({"example": X[:1, :2]}, TaskError, r"does not accept the example input \(\(1, 2\) float32\)"),
        ({"train": (X[:, :2], Y)}, TaskError, r"does not accept a batch of task\.train \(\(2, 2\) float32\)"),
        ({"val": (X, torch.arange(10))}, DataError, r"task\.val: labels run from 0 to 9, but the model has 2"),
        ({"val": (X, Y - 1)}, DataError, r"task\.val: labels run from -1 to 0"),
        ({"train": (X, Y + 5)}, DataError, r"task\.train: labels run from 5 to 6"),
        ({"train": (X[:0], Y[:0])}, DataError, r"task\.train yields nothing"),
        ({"val": (X,)}, TaskError, r"task\.val yields no target"),
        ({"loss": "crossentropy"}, TaskError, r"no loss 'crossentropy'\. Did you mean 'cross_entropy'\?"),
        ({"metric": "acc"}, TaskError, r"no metric 'acc'\. Did you mean 'accuracy'\?"),
        ({"loss": "mse"}, TaskError, r"task\.loss fails on a batch of task\.train \(output \(2, 2\) float32;"),
        ({"metric": "f1", "loss": lambda o, t: o.sum(), "val": (X, X)}, TaskError, r"one class index for each"),
        ({"model": 3}, TaskError, r"task\.model must be or make an nn\.Module, not a int"),
        ({"model": lambda: 3}, TaskError, r"task\.model must be or make an nn\.Module, not a int"),
        ({"model": nn.Linear}, TaskError, r"task\.model: the factory failed: TypeError: .*without arguments"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_task_is_said_before_any_work(fields, error, message):
    with pytest.raises(error, match=message):
        _task(**fields).check()


def test_evaluation_of_a_single_logit_knows_its_classes_and_a_regression_has_none():
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    task = _task(val=(logits, torch.tensor([1, 0, 0, 0])))
    seen = evaluate(lambda x: x, task.data("val"), METRICS["accuracy"])
    assert seen.value == 0.75 and seen.predicted.tolist() == [1, 0, 1, 0]
    assert seen.confidence.tolist() == pytest.approx(logits[:, 0].abs().sigmoid().tolist())
    assert evaluate(lambda x: x, task.data("val"), METRICS["mse"]).predicted is None


TASK_FILE = """
import torch
from torch import nn
from paretune.task import Task
from helper_beside import WIDTH

def make_task():
    return Task(model=nn.Linear(WIDTH, 2), train=(torch.zeros(4, WIDTH), torch.zeros(4).long()))

def make_nothing():
    return None

def make_trouble():
    raise ValueError("no such file: data.npz")
"""


@pytest.fixture
def task_file(tmp_path):
    (tmp_path / "helper_beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "my_task.py").write_text(TASK_FILE)
    return tmp_path / "my_task.py"


def test_a_task_is_made_from_a_file_and_knows_its_origin(task_file):
    task = load_task(f"{task_file}:make_task")
    assert task.build().in_features == 3
    assert task.origin == f"{task_file.resolve()}:make_task"
    assert load_task(task.origin).build().in_features == 3


def test_a_task_is_made_from_a_module_in_the_current_folder(task_file, monkeypatch):
    monkeypatch.chdir(task_file.parent)
    task = load_task("my_task:make_task")
    assert task.origin == "my_task:make_task"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{file}", r"names no function; write path/to/file\.py:make_task"),
        ("{file}:make_tusk", r"has no 'make_tusk'\. Did you mean 'make_task'\?"),
        ("{folder}/my_tusk.py:make_task", r"no file .*my_tusk\.py\. Did you mean 'my_task\.py'\?"),
        ("no_such_package.tasks:make_task", r"cannot import no_such_package\.tasks .*No module named"),
        ("{file}:make_nothing", r"returned a NoneType; it must return a paretune\.Task"),
        ("{file}:make_trouble", r"failed: ValueError: no such file: data\.npz"),
    ],
)
def test_a_reference_that_does_not_work_is_said(reference, message, task_file):
    with pytest.raises(InputError, match=message):
        load_task(reference.format(file=task_file, folder=task_file.parent))


def test_a_file_with_a_syntax_error_is_said_and_can_be_mended(task_file):
    broken = task_file.parent / "broken_task.py"
    broken.write_text("def make_task(:\n")
    with pytest.raises(InputError, match=r"cannot import .*broken_task\.py .*SyntaxError"):
        load_task(f"{broken}:make_task")
    broken.write_text(TASK_FILE)
    assert load_task(f"{broken}:make_task").build().in_features == 3


def test_a_task_s_function_takes_arguments_from_its_reference(tmp_path: Path) -> None:
    file = tmp_path / "sized.py"
    file.write_text(
        "import torch\nfrom paretune import Task\n\n\ndef make_task(width=3, kind='relu'):\n"
        "    x = torch.zeros(4, width)\n"
        "    return Task(model=torch.nn.Linear(width, 2), train=(x, torch.zeros(4).long()), name=kind)\n"
    )
    task = load_task(f"{file}:make_task(width=5, kind='a:b (c)')")
    assert (task.build().in_features, task.name) == (5, "a:b (c)")
    assert load_task(str(task.origin)).build().in_features == 5
    assert task.origin == f"{file.resolve()}:make_task(width=5, kind='a:b (c)')"
    with pytest.raises(InputError, match=r"unexpected keyword argument 'widht'.*Did you mean 'width'\?"):
        load_task(f"{file}:make_task(widht=5)")
    with pytest.raises(InputError, match=r"arguments of .* cannot be read"):
        load_task(f"{file}:make_task(5)")
