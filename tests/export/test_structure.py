from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from paretune.errors import TaskError
from paretune.export._structure import input_names, named_outputs

ONE, TWO = torch.ones(1), torch.ones(2)


class Model(nn.Module):
    def forward(self, image, mask=None, *more, scale=1.0):
        return image


@dataclass
class Result:
    logits: torch.Tensor
    loss: None = None


@pytest.mark.parametrize(
    ("example", "names"),
    [
        (ONE, ["image"]),
        ((ONE, TWO), ["image", "mask"]),
        ((ONE, None, ONE, TWO), ["image", "more_0", "more_1"]),
        (({"a": ONE, "b": [TWO, ONE]},), ["image_a", "image_b_0", "image_b_1"]),
        ({"scale": ONE, "image": TWO}, ["scale", "image"]),
    ],
)
def test_inputs_are_named_as_forward_names_them(example, names):
    assert input_names(Model(), example) == names


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (ONE, ["output"]),
        ((ONE, None, TWO), ["output_0", "output_1"]),
        ([ONE], ["output_0"]),
        ((ONE, (TWO, ONE)), ["output_0", "output_1", "output_2"]),
        ({"logits": ONE, "states": (ONE, TWO), "n": 3}, ["logits", "states_0", "states_1"]),
        (namedtuple("Pair", "left right")(ONE, TWO), ["left", "right"]),
        (Result(ONE), ["logits"]),
    ],
)
def test_outputs_are_named_by_their_keys_or_their_place(output, names):
    assert list(named_outputs(output)) == names


@pytest.mark.parametrize("output", [None, 3, {}, "text"])
def test_an_output_without_a_tensor_is_a_task_error(output):
    with pytest.raises(TaskError, match="holds no tensor"):
        named_outputs(output)
