"""Multiply-accumulates by hand, and in what they do not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretune.measure import macs, parameters


class Product(nn.Module):
    def forward(self, a, b):
        return a @ b


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, *, x, scale):
        return {"logits": self.linear(x) * scale}


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.reshape(4, 3))


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x @ self.weight


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(3, 4, 5)

    def forward(self, x):
        return self.layer(x[:, :3], x[:, 3:])


@pytest.mark.parametrize(
    ("model", "shapes", "expected"),
    [
        (nn.Linear(3, 2), [(5, 3)], 3 * 2),
        (nn.Linear(3, 2), [(5, 7, 3)], 7 * 3 * 2),
        (nn.Conv2d(4, 8, 3, padding=1), [(2, 4, 5, 5)], 25 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, stride=2), [(2, 4, 5, 5)], 4 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), [(2, 4, 5, 5)], 25 * 8 * 1 * 9),
        (nn.Conv1d(4, 4, 3, groups=4), [(2, 4, 5)], 3 * 4 * 3),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), [(2, 4, 5, 5)], 25 * 4 * 8 * 4),
        (Product(), [(3, 4, 5), (3, 5, 6)], 4 * 5 * 6),
        (nn.LSTM(6, 5, batch_first=True), [(3, 7, 6)], 7 * 4 * 5 * (6 + 5)),
        (nn.GRU(6, 5, batch_first=True), [(3, 7, 6)], 7 * 3 * 5 * (6 + 5)),
        (nn.MultiheadAttention(8, 2, batch_first=True), [(3, 4, 8)] * 3, 4 * 8 * 32 + 2 * 4 * 4 * 8),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            [(3, 4, 8)],
            4 * 8 * 32 + 2 * 4 * 4 * 8 + 2 * 4 * 8 * 16,
        ),
        (Vector(), [(2, 6)], 6),
        (Bilinear(), [(2, 7)], 3 * 4 * 5),
        (FixedBatch(), [(4, 3)], 3 * 2),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), [(2, 4, 4, 4)], 0),
    ],
)
def test_by_hand(model, shapes, expected):
    example = tuple(torch.zeros(shape) for shape in shapes)
    assert macs(model, example if len(example) > 1 else example[0]) == expected


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(3, 8))
@settings(max_examples=20, deadline=None)
def test_does_not_depend_on_the_batch(batch, inputs, outputs, size):
    model = nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, inputs, size, size))
    positions = (size - 2) ** 2
    expected = positions * outputs * inputs * 9 + positions * outputs * 2
    assert macs(model, torch.zeros(batch, inputs, size, size)) == expected


def test_keyword_inputs_without_a_batch_are_left_whole():
    assert macs(Keywords(), {"x": torch.zeros(3, 3), "scale": torch.ones(2)}) == 6


def test_leaves_the_model_and_the_backends_as_they_were():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3)).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    macs(model, torch.randn(4, 3))
    assert model.training and model[2].training and not model[1].training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_does_not_take_the_example_says_so_in_its_own_words():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        macs(nn.Linear(3, 2), torch.zeros(2, 4))


def test_a_tied_parameter_counts_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert parameters(model) == 24
    model[1].weight = model[0].weight
    assert parameters(model) == 15
