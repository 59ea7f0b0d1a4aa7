"""Operator times: what is run of an operator, and the table that keeps the times."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from paretune.errors import RunError
from paretune.measure import Convolution, Event, OperatorTable, Product, _alone, profiled
from paretune.measure._operators import key_of
from paretune.target import Target

TARGET = Target()
SQUARE = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


def convolution(reads, makes, **how):
    return Convolution(
        **{"batch": 1, "reads": reads, "makes": makes, "size": (8, 8), "kernel": (3, 3), **SQUARE, **how}
    )


def event(name, kind="Conv", ms=1.0):
    return Event(name, kind, ms, (1,), kind == "Conv")


@pytest.mark.parametrize(
    ("operator", "key"),
    [
        (convolution(16, 32, stride=(2, 2)), "convolution 1 16 32 8x8 3x3 2x2 1x1 1x1 1"),
        (convolution(16, 32, transposed=True), "transposed 1 16 32 8x8 3x3 1x1 1x1 1x1 1"),
        (Product(1, 64, 128, 512, True), "product 1 64 128 512 weight"),
        (Product(4, 64, 32, 64, False), "product 4 64 32 64"),
    ],
)
def test_an_operator_has_a_name_of_its_own(operator, key):
    assert key_of(operator) == key


def test_what_is_timed_is_the_operator_and_the_change_of_layout_before_it():
    """By hand: the change behind the operator belongs to whoever reads it, the one before to the operator."""
    run = [event("ReorderInput", "ReorderInput", 8.0), event("before_nchwc"), event("ReorderOutput", "R", 0.25)]
    run += [event("middle", ms=2.0), event("ReorderInput_1", "R", 4.0), event("after_nchwc")]
    assert [each.ms for each in _alone.own(run)] == [0.25, 2.0]
    assert [each.ms for each in _alone.own([event("MatMul", ms=3.0)])] == [3.0]
    entering = [event("ReorderInput", "R", 0.5), event("middle_nchwc", ms=2.0), event("after_nchwc")]
    assert [each.ms for each in _alone.own(entering)] == [0.5, 2.0]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": (2, 1), "padding": (0, 2)},
        {"groups": 4, "dilation": (2, 2)},
        {"groups": 8, "makes": 8},
        {"transposed": True, "stride": (2, 2)},
        {"transposed": True, "groups": 2},
        {"reads": 3},
        {"size": (8,), "kernel": (3,), "stride": (1,), "padding": (1,), "dilation": (1,)},
    ],
)
def test_the_convolution_that_is_run_is_the_one_that_was_named(how):
    """PyTorch is the oracle: the values that the middle one of three makes have its shape."""
    operator = convolution(how.pop("reads", 8), how.pop("makes", 12), **how)
    model, inputs = _alone.alone(operator)
    feeds = {name: np.ones(shape, np.float32) for name, shape in inputs.items()}
    seen = onnxruntime.InferenceSession(model).run(None, feeds)[0]
    names = {"stride": operator.stride, "padding": operator.padding, "dilation": operator.dilation}
    space, parts = len(operator.size), operator.groups
    x = torch.ones(1, operator.reads, *operator.size)
    if operator.transposed:
        weight = torch.ones(operator.reads, operator.makes // parts, *operator.kernel)
        made = getattr(functional, f"conv_transpose{space}d")(x, weight, groups=parts, **names)
    else:
        weight = torch.ones(operator.makes, operator.reads // parts, *operator.kernel)
        made = getattr(functional, f"conv{space}d")(x, weight, groups=parts, **names)
    assert seen.shape == (1, _alone.ALIGNED, *made.shape[2:])


def test_every_operator_is_timed_once_and_kept(tmp_path):
    table = OperatorTable(TARGET, tmp_path)
    wide, narrow = Product(1, 64, 1024, 1024, True), Product(1, 64, 128, 128, True)
    times = [table.time(each) for each in (wide, narrow, wide)]
    assert times[0] == times[2] and times[0].ms > 4 * times[1].ms > 0 and table.timed == 2  # 64 times the products
    table.save()
    again = OperatorTable(TARGET, tmp_path)
    assert [again.time(each) for each in (wide, narrow, wide)] == times and again.timed == 0 and not again.note
    assert OperatorTable(Target(threads=2), tmp_path).path != table.path


def test_nothing_takes_no_time(tmp_path):
    table = OperatorTable(TARGET, tmp_path)
    assert table.time(Product(1, 64, 0, 8, True)) == (0.0, 0) == table.time(convolution(0, 8))


def test_a_table_of_another_cpu_is_measured_anew_and_said_so(tmp_path):
    table, small = OperatorTable(TARGET, tmp_path), Product(1, 1, 8, 8, True)
    table.time(small)
    table.save()
    stored = json.loads(table.path.read_text())
    stored["times"] = {key: [99.0, 1] for key in stored["times"]}
    stored["of"]["machine"]["name"] = "Abacus 9000"
    table.path.write_text(json.dumps(stored))
    other = OperatorTable(TARGET, tmp_path)
    assert other.note == f"the operator times in {table.path} are of another CPU (Abacus 9000): measured anew"
    assert other.time(small).ms < 9 and other.timed == 1


DAMAGED = [
    *("", "[]", '{"of": 1}', '{"of": {}, "times": {"a": [1]}}'),
    *('{"of": [], "times": {}}', '{"of": {"machine": "x"}, "times": {}}'),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_table_that_is_damaged_is_measured_anew(tmp_path, content):
    table = OperatorTable(TARGET, tmp_path)
    table.path.write_text(content)
    again = OperatorTable(TARGET, tmp_path)
    assert "measured anew" in again.note and again.time(Product(1, 1, 8, 8, True)).ms >= 0 and again.timed == 1


def test_a_table_that_cannot_be_written_is_said_and_nothing_is_lost(tmp_path):
    (tmp_path / "file").write_text("")
    table = OperatorTable(TARGET, tmp_path / "file" / "operators")
    small = Product(1, 1, 8, 8, True)
    before = table.time(small)
    table.save()
    assert "cannot be kept in" in table.note and table.time(small) == before


def test_an_operator_that_does_not_run_alone_says_why(tmp_path):
    with pytest.raises(RunError, match=r"onnxruntime cannot run 'convolution 1 8 8 2x2 5x5 .*' alone: "):
        OperatorTable(TARGET, tmp_path).time(convolution(8, 8, size=(2, 2), kernel=(5, 5), padding=(0, 0)))


def test_the_profile_of_a_file_is_what_it_runs_in_order(product):
    events, ms = profiled(product(256), TARGET)
    assert [each.kind for each in events] == ["MatMul"] * 4 and all(each.multiplies for each in events)
    assert [each.shape for each in events] == [(1, 256)] * 4 and ms > 0
    assert 0.2 * ms < sum(each.ms for each in events) < 5 * ms
