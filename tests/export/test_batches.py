from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.errors import TaskError
from paretune.export._batches import batch_of, resized, take


def test_only_what_has_the_batch_is_taken_from():
    inputs = {"x": torch.tensor([[1], [2]]), "table": torch.zeros(3), "flag": 7}
    taken = take(inputs, [1, 1, 0])
    assert taken["x"].tolist() == [[2], [2], [1]] and taken["table"] is inputs["table"] and taken["flag"] == 7


@given(st.integers(1, 5), st.integers(1, 12))
def test_resized_repeats_the_samples_in_turn(have, wanted):
    got = resized(torch.arange(have), wanted)
    assert got.tolist() == [row % have for row in range(wanted)]


@pytest.mark.parametrize(
    ("inputs", "reason"), [((), "holds no tensor"), (torch.tensor(1.0), "without dimensions")]
)
def test_inputs_without_a_batch_are_a_task_error(inputs, reason):
    with pytest.raises(TaskError, match=reason):
        batch_of(inputs)
