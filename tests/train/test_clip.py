import math

import pytest
import torch

from paretune.train._clip import clip_gradients


def _with_gradients(*values):
    parameters = [torch.zeros(len(value), requires_grad=True) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, [3.0, -4.0, 12.0]),
        ({"norm": 26.0}, [3.0, -4.0, 12.0]),
        ({"norm": 1.3}, [0.3, -0.4, 1.2]),  # 13 long: a tenth of it
        ({"value": 3.5}, [3.0, -3.5, 3.5]),
        ({"value": 3.0, "norm": 27**0.5 / 3}, [1.0, -1.0, 1.0]),  # by value first
    ],
)
def test_by_hand_over_two_tensors_and_the_norm_before_is_returned(bounds, expected):
    parameters = _with_gradients([3.0, -4.0], [12.0])
    assert clip_gradients(parameters, **bounds) == pytest.approx(13.0)
    assert torch.cat([p.grad for p in parameters]).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_entry_that_is_not_finite_shows_in_the_norm_whatever_is_clipped(bad):
    assert not math.isfinite(clip_gradients(_with_gradients([1.0, bad]), norm=1.0, value=1.0))


def test_parameters_without_gradient_are_passed_over():
    assert clip_gradients([torch.zeros(2, requires_grad=True), *_with_gradients([3.0, 4.0])]) == 5.0
