"""Numbers in attributes that held an old width are found and set, and no others; else the graph serves."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.cuts import Cuts
from paretune.errors import InfeasibleError, SurgeryError
from paretune.prune._surgery import follow as _follow

TOKENS = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Numbers(nn.Module):
    """A linear layer whose output goes through a function that reads numbers of the module."""

    def __init__(self, function, made=8, **numbers):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(5, made), nn.Linear(made, 3), function
        for name, value in numbers.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


def numbers_of(module):
    return {name: value for name, value in vars(module).items() if type(value) in (int, tuple, list)}


def both_ends(module, x):
    first, second = x.split(module.sizes, 1)
    return torch.cat([second, first], 1)


def by_name(module, x):
    first, second = x.split([module.first, module.second], 1)
    return torch.cat([second, first], 1)


def depthwise(module, x):
    return F.conv1d(x[..., None], x.new_ones(module.groups, 1, 1), groups=module.groups)[..., 0]


@pytest.mark.parametrize(
    ("function", "numbers", "after"),
    [
        (lambda m, x: x.view(-1, m.width), {"width": 8}, {"width": 4}),
        (lambda m, x: x.view(-1, m._width), {"_width": 8}, {"_width": 4}),
        (lambda m, x: F.layer_norm(x, (m.dim,)), {"dim": 8}, {"dim": 4}),
        (lambda m, x: F.layer_norm(x, m.shape), {"shape": (8,)}, {"shape": (4,)}),
        (lambda m, x: x.view(m.shape), {"shape": [-1, 8]}, {"shape": [-1, 4]}),
        (lambda m, x: x + x.new_ones(m.batch, m.width), {"batch": 2, "width": 8}, {"batch": 2, "width": 4}),
        (depthwise, {"groups": 8}, {"groups": 4}),
        # rows 2, 3, 4 and 6 go
        (both_ends, {"sizes": (5, 3)}, {"sizes": (2, 2)}),
        (both_ends, {"sizes": [5, 3]}, {"sizes": [2, 2]}),
        (by_name, {"first": 5, "second": 3}, {"first": 2, "second": 2}),
        # numbers that are equal, and only one of them is a width
        (
            lambda m, x: x.view(-1, m.width).repeat(m.copies, 1),
            {"width": 8, "copies": 8},
            {"width": 4, "copies": 8},
        ),
        (lambda m, x: x.view(-1, m.width) * m.factor, {"factor": 8, "width": 8}, {"factor": 8, "width": 4}),
        (lambda m, x: x * m.factor, {"factor": 8}, {"factor": 8}),
    ],
)
def test_what_held_an_old_width_is_set_and_nothing_else(function, numbers, after):
    model = Numbers(function, **numbers).double()
    with torch.no_grad():
        model.a.weight[[2, 3, 4, 6]] *= 0.01
    pruned = prune.channels(model, ROWS, ratio=0.5)
    assert pruned.cuts.form == "module" and type(pruned.model) is Numbers and numbers_of(pruned.model) == after
    assert numbers_of(model) == numbers  # the one that was given is as it was
    built = Numbers(function, made=4, **after).double()  # as if it had been written so
    built.load_state_dict(pruned.model.state_dict())
    assert torch.equal(built(ROWS), pruned.model(ROWS))
    again = prune.replay(copy.deepcopy(model), Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json()))))
    assert numbers_of(again) == after and torch.equal(again(ROWS), pruned.model(ROWS))


class Attention(nn.Module):
    def __init__(self, dim, heads, head_dim, scale=None):
        super().__init__()
        self.num_heads, self.head_dim, self.inner, self.scale = heads, head_dim, heads * head_dim, scale
        self.qkv, self.proj = nn.Linear(dim, 3 * self.inner), nn.Linear(self.inner, dim)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, self.inner))


class Transformer(nn.Module):
    """Layers of attention on a stream of 10."""

    def __init__(self, heads=4, head_dim=3, layers=1, scale=None):
        super().__init__()
        torch.manual_seed(0)
        self.inp = nn.Linear(5, 10)
        self.layers = nn.ModuleList(Attention(10, heads, head_dim, scale) for _ in range(layers))
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        x = self.inp(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.out(x)


@pytest.mark.parametrize("cheap", [0, 1_000_000_000])  # run on fake tensors, and as it is
@pytest.mark.parametrize(("heads", "head_dim", "layers"), [(4, 3, 1), (4, 4, 1), (2, 2, 3)])
def test_heads_that_are_left_are_counted(oracle, heads, head_dim, layers, cheap, monkeypatch):
    """A head may be as wide as there are heads, which only what the model computes can tell apart."""
    monkeypatch.setattr(_follow, "_CHEAP", cheap)
    pruned = oracle(Transformer(heads, head_dim, layers), TOKENS, structures=("heads",), ratio=0.5, scope="local")
    left = heads - heads // 2
    assert pruned.cuts.form == "module"
    assert {(m.num_heads, m.head_dim, m.inner) for m in pruned.model.layers} == {(left, head_dim, left * head_dim)}
    built = Transformer(left, head_dim, layers).double()
    built.load_state_dict(pruned.model.state_dict())
    assert torch.equal(built(TOKENS), pruned.model(TOKENS))


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 3), (4, 4)])
def test_widths_inside_heads_are_counted_where_no_scale_follows_them(heads, head_dim):
    model = Transformer(heads, head_dim, scale=0.5).double()
    pruned = prune.heads(model, TOKENS, within=True)
    layer = pruned.model.layers[0]
    assert pruned.cuts.form == "module" and (layer.num_heads, layer.head_dim) == (heads, (head_dim + 1) // 2)
    built = Transformer(heads, layer.head_dim, scale=0.5).double()
    built.load_state_dict(pruned.model.state_dict())
    assert torch.equal(built(TOKENS), pruned.model(TOKENS))


def test_like_modules_that_lose_unlike_parts_get_numbers_of_their_own(oracle):
    model = Transformer(4, 3, layers=3).double()
    with torch.no_grad():
        for layer, heads in zip(model.layers, (3, 1, 2), strict=True):
            layer.qkv.weight.view(3, 4, 3, 10)[:, heads:] *= 1e-3
    pruned = prune.channels(model, TOKENS, structures=("heads",), threshold=0.05)
    assert pruned.cuts.form == "module"
    assert [(m.num_heads, m.inner) for m in pruned.model.layers] == [(3, 9), (1, 3), (2, 6)]


def test_a_scale_that_follows_the_width_of_a_head_cannot_be_set_and_the_graph_keeps_it():
    model = Transformer().double()
    pruned = prune.heads(model, TOKENS, within=True)
    assert (
        pruned.cuts.form == "graph"
        and "own forward does not follow (it computes another function" in pruned.notes[-1]
    )
    # by hand: two of three positions of every head, at the scale of three
    keep = list(next(c for c in pruned.cuts.cuts if c.tensor == "layers.0.proj.weight").keep)
    narrow = Transformer(4, 2, scale=3**-0.5).double()
    narrow.load_state_dict(pruned.model.state_dict())
    assert len(keep) == 8
    torch.testing.assert_close(narrow(TOKENS), pruned.model(TOKENS), rtol=0, atol=1e-12)
    with pytest.raises(
        InfeasibleError, match=r"layers.0.qkv: the model's own forward does not follow: it computes"
    ):
        prune.heads(model, TOKENS, within=True, form="module")


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.width, self.a, self.b = 8, nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 8) + self.width)


def test_a_number_in_the_code_is_named_with_its_line_and_the_attributes_stay(oracle):
    model = Literal()
    pruned = oracle(model, ROWS, ratio=0.5)
    assert pruned.cuts.form == "graph" and pruned.widths == {"a": 4}
    assert "return self.b(self.a(x).view(-1, 8) + self.width)" in pruned.notes[-1]
    assert "test_follow.py:" in pruned.notes[-1] and model.width == 8
    analysis = prune.analyze(model, ROWS)
    selection = prune.select(analysis, ratio=0.5)
    with pytest.raises(
        SurgeryError, match=r"does not follow this cut: RuntimeError: .*view\(-1, 8\).*form=\"auto\""
    ):
        prune.cut(analysis, selection, form="module")


@pytest.mark.parametrize("cheap", [0, 1_000_000_000])
def test_the_search_ends_however_many_numbers_there_are(cheap, monkeypatch):
    monkeypatch.setattr(_follow, "_CHEAP", cheap)
    calls = []

    def stubborn(module, x):
        calls.append(tuple(numbers_of(module).values()))
        return x.view(-1, 8)

    model = Numbers(stubborn, **{f"number{i}": 8 for i in range(12)})
    pruned = prune.channels(model, ROWS.float(), ratio=0.5)
    assert pruned.cuts.form == "graph" and 4 < len(set(calls)) < 66 and len(calls) < 80
