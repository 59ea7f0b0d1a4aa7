"""A cut that computes something else is refused even where the model's own weights or example hide it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError
from paretune.prune._surgery.random_weights import at_random

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Muted(nn.Module):
    """Attention whose scale follows from the width that is left, behind a layer scale that may mute it."""

    def __init__(self, gamma):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.proj, self.gamma = nn.Linear(8, 6), nn.Parameter(torch.full((6,), gamma))

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        return x + self.gamma * self.proj(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


@pytest.mark.parametrize("gamma", [1.0, 1e-6, 0.0])
@pytest.mark.parametrize("example", [TOKENS, torch.zeros(2, 5, 6)])
def test_a_scale_that_changes_is_noticed_whatever_hides_it(gamma, example):
    how = {"structures": ("query_key",), "widths": {"query": 4}}
    with pytest.raises(InfeasibleError, match="another function"):
        prune.channels(Muted(gamma), example, form="module", **how)
    pruned = prune.channels(Muted(gamma), example, **how)
    assert pruned.cuts.form == "graph"
    # by hand: what is left, divided by the root of the width that there was
    loud = Muted(1.0).double()
    keep = list(pruned.cuts.cuts[0].keep)
    q, k = (layer(TOKENS.double())[..., keep] for layer in (loud.query, loud.key))
    mixed = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ loud.value(TOKENS.double())
    graph = prune.replay(copy.deepcopy(loud), pruned.cuts)
    torch.testing.assert_close(graph(TOKENS.double()), TOKENS + loud.proj(mixed), rtol=0, atol=1e-12)


def test_what_is_drawn_is_a_copy_and_always_the_same():
    model = nn.Sequential(nn.Linear(6, 50), nn.BatchNorm1d(5), nn.Linear(50, 2)).eval()
    with torch.no_grad():
        model[1].running_var.fill_(7.0)
    before = copy.deepcopy(model.state_dict())
    analysis = prune.analyze(model, torch.zeros(2, 5, 6))
    first, second = at_random(analysis), at_random(analysis)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(first.captured.example, second.captured.example) and first.captured.example.std() > 0.5
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    drawn = first.model
    assert (
        0.3 < float(drawn[2].weight.detach().std()) * 50**0.5 < 3
    )  # the sum over 50 inputs is of the size of one
    assert abs(float(drawn[1].weight.detach().mean()) - 1) < 0.5 and float(drawn[1].running_var.min()) == 1
    assert drawn(first.captured.example).shape == (2, 5, 2)


def test_whole_numbers_stay_those_of_the_example():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    words = torch.tensor([[0, 8, 3]])
    assert torch.equal(at_random(prune.analyze(model, words)).captured.example, words.repeat(2, 1))
    assert prune.channels(model, words, ratio=0.5).cuts.form == "module"
