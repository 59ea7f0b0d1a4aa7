"""The numbers that code computes with, by hand; a cut that changes one of them is no cut."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.prune._surgery.scalars import changed, scalars_of

ROWS = torch.zeros(2, 6)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.function, self.b = nn.Linear(6, 6), function, nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda self, x: x * 0.5 + 3, [("mul", (0.5,)), ("add", (3.0,))]),
        (lambda self, x: x / x.shape[1], [("div", (6.0,))]),
        (lambda self, x: x.pow(2).clamp(min=-1, max=4), [("pow", (2.0,)), ("clamp", (-1.0, 4.0))]),
        (lambda self, x: x.view(2, 2, 3).transpose(1, 2).flatten(1)[:, :6], []),  # lengths and axes are none
        (lambda self, x: x + torch.arange(6), []),
        (lambda self, x: F.layer_norm(x, (6,), eps=0.25), [("native_layer_norm", (0.25,))]),
    ],
)
def test_numbers_to_compute_with(function, numbers):
    assert scalars_of(Function(function), ROWS) == numbers


def test_code_that_looks_at_values_has_none_that_can_be_told():
    assert scalars_of(Function(lambda self, x: x * 2 if x.sum() > 0 else x), ROWS) is None


def test_what_the_run_leaves_in_a_cache_is_not_the_models():
    def cached(self, x):
        self.kept = vars(self).get("kept") or x * 2
        return self.kept

    model = Function(cached).train()
    assert scalars_of(model, ROWS) == [("mul", (2.0,))]
    assert not hasattr(model, "kept") and model.training


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([("mul", (0.5,))], [("mul", (0.5,))], ""),
        ([("mul", (0.5,)), ("div", (8.0,))], [("mul", (0.5,)), ("div", (4.0,))], "div by 4 where it was 8"),
        ([("mul", (0.5,))], [("mul", (0.5,)), ("add", (1.0,))], ""),  # another way through the code: not compared
        ([("mul", (float("nan"),))], [("mul", (float("nan"),))], ""),
        (None, [], ""),
    ],
)
def test_the_first_number_that_changed(before, after, said):
    assert changed(before, after) == said


class Alike(nn.Module):
    """Attention over tokens that are all alike: whatever its scale is, it gives the same."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.size = 8
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 6)

    def forward(self, x):
        x = x.mean(1, keepdim=True).expand_as(x)
        q, k = (layer(x).view(*x.shape[:2], self.size) for layer in (self.query, self.key))
        return torch.softmax(q @ k.transpose(1, 2) * self.size**-0.5, -1) @ self.value(x)


def test_a_scale_that_changes_shows_where_outputs_do_not():
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    pruned = prune.channels(Alike(), tokens, structures=("query_key",), widths={"query": 4})
    assert pruned.cuts.form == "graph" and "mul by 0.5 where it was 0.353553" in pruned.notes[-1]
