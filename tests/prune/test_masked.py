"""The masked model, by hand: what reads removed channels reads zeros, and statistics are those of what stays."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.prune._deliver import masked_outputs
from paretune.prune._surgery.masked import _STATISTICS, Masked

GONE, STAYS = [1, 4], [0, 2, 3, 5]
ROWS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def without(analysis, layer, gone):
    """Return what stays once some of the channels that a layer makes are gone; all of them may be."""
    made = next(made for made in analysis.couplings.makes if made.tensor == f"{layer}.weight")
    units = analysis.couplings.units.find(made.units[gone])
    assert (analysis.couplings.units.pinned(units) < 0).all()
    return analysis.keep(units)


class Between(nn.Module):
    """A layer of 6 channels, something, and a layer that reads what comes out."""

    def __init__(self, function, image=False):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)) if image else (nn.Linear(4, 6), nn.Linear(6, 2))
        self.function = function
        self.norm = nn.GroupNorm(2, 6) if image else nn.LayerNorm(6)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


def masked(model, example, gone=GONE):
    model = model.double()
    analysis = prune.analyze(model, example)
    (out,) = masked_outputs(analysis, without(analysis, "a", gone))
    return out


def rows(model):
    """Return the channels that stay, and the columns that read them."""
    return F.linear(ROWS, model.a.weight, model.a.bias)[..., STAYS], model.b.weight[:, STAYS]


def rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def standardised(x):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


def standardised_at_once(x):
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + 1e-5)


def by_its_length(x):
    return x / x.square().sum(-1, keepdim=True).sqrt()


def by_its_sum(x):
    x = x.exp()
    return x / x.sum(-1, keepdim=True)


def by_its_mean(x):
    x = x.square()
    return x / (x.mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "function",
    [
        torch.tanh,
        lambda x: x.softmax(-1),
        rms,
        standardised,
        standardised_at_once,
        lambda x: F.normalize(x, dim=-1),
        lambda x: x / torch.linalg.vector_norm(x, 3, -1, keepdim=True),
        by_its_mean,
        by_its_length,
        by_its_sum,
        lambda x: F.layer_norm(x, x.shape[-1:]),
        lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
        lambda x: F.group_norm(x, 3),  # what it takes for space are the channels here
    ],
    ids=[
        "tanh",
        "softmax",
        "rms",
        "std",
        "var_mean",
        "norm",
        "3-norm",
        "mean",
        "length",
        "sum",
        "layer_norm",
        "rms_norm",
        "group_norm",
    ],
)
def test_a_function_of_the_channels_is_that_of_those_that_stay(function):
    model = Between(lambda self, x: function(x))
    found = masked(model, ROWS)
    x, weight = rows(model)
    torch.testing.assert_close(found, F.linear(function(x), weight, model.b.bias), rtol=0, atol=1e-12)


def test_layer_norm_with_weights_of_those_that_stay():
    model = Between(lambda self, x: self.norm(x))
    found = masked(model, ROWS)
    x, weight = rows(model)
    x = F.layer_norm(x, (4,), model.norm.weight[STAYS], model.norm.bias[STAYS])
    torch.testing.assert_close(found, F.linear(x, weight, model.b.bias), rtol=0, atol=1e-12)


def test_group_norm_takes_equal_parts_of_every_group():
    model = Between(lambda self, x: self.norm(x), image=True)
    found = masked(model, IMAGE, [1, 3])
    stays = [0, 2, 4, 5]
    x = F.conv2d(IMAGE, model.a.weight[stays], model.a.bias[stays])
    x = F.group_norm(x, 2, model.norm.weight[stays], model.norm.bias[stays])
    torch.testing.assert_close(found, F.conv2d(x, model.b.weight[:, stays], model.b.bias), rtol=0, atol=1e-12)


def test_topk_chooses_among_those_that_stay():
    def chosen(self, x):
        best, places = x.topk(2, -1)
        return torch.zeros_like(x).scatter(-1, places, best.sigmoid())

    model = Between(chosen)
    found = masked(model, ROWS)
    x, weight = rows(model)
    torch.testing.assert_close(found, F.linear(chosen(None, x), weight, model.b.bias), rtol=0, atol=1e-12)


def test_where_all_stays_it_is_the_model():
    for model, example in (
        (Between(lambda self, x: self.norm(x)), ROWS),
        (Between(lambda self, x: x, True), IMAGE),
    ):
        assert torch.equal(masked(model, example, []), model.eval()(example))


def test_each_group_of_a_convolution_reads_zeros_at_places_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1, groups=2), nn.Flatten(), nn.Linear(64, 2)
    ).double()
    analysis = prune.analyze(model, IMAGE)
    (found,) = masked_outputs(analysis, without(analysis, "0", [0, 4]))
    x = F.conv2d(IMAGE, model[0].weight, model[0].bias)
    parts = [
        F.conv2d(x[:, p], model[1].weight[r, c], model[1].bias[r])
        for p, r, c in (
            ([1, 2], slice(0, 2), slice(1, 3)),
            ([3, 5], slice(2, 4), [0, 2]),
        )
    ]
    torch.testing.assert_close(found, model[3](torch.cat(parts, 1).flatten(1)), rtol=0, atol=1e-12)


def test_a_product_of_two_activations_leaves_them_out():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.key = nn.Linear(4, 6), nn.Linear(4, 6)

        def forward(self, x):
            return self.a(x) @ self.key(x).transpose(1, 2)

    model = Scores()
    found = masked(model, ROWS)
    q, k = (F.linear(ROWS, layer.weight, layer.bias)[..., STAYS] for layer in (model.a, model.key))
    torch.testing.assert_close(found, q @ k.transpose(1, 2), rtol=0, atol=1e-12)


def test_what_is_removed_flows_on_to_whoever_reads_it_all_the_same():
    """The masked model shows a rule that forgets a reader: its output still depends on what is removed."""

    class Leak(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.a(x)
            return self.b(x) + x

    model = Leak().double()
    analysis = prune.analyze(model, ROWS)
    made = next(made for made in analysis.couplings.makes if made.tensor == "a.weight")
    keep = analysis.keep(analysis.couplings.units.find(made.units[[1]]))  # pinned: it is a part of the output
    graph = Masked(analysis.graph, analysis.captured.program.graph, analysis.couplings, keep)
    x = model.a(ROWS)
    expected = F.linear(x[..., [0, 2, 3, 4, 5]], model.b.weight[:, [0, 2, 3, 4, 5]], model.b.bias) + x
    torch.testing.assert_close(graph.run(ROWS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("norm", "image"), [("layer_norm", False), ("group_norm", True)])
def test_what_is_removed_is_normalised_as_it_was(norm, image):
    """By what stays it could grow without bound: in gMixer, 24 gated blocks deep, it overflowed."""
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64) if image else torch.randn(2, 5, 6, dtype=torch.float64)
    gone = torch.zeros(6, dtype=torch.bool)
    gone[GONE] = True
    far = x.clone()
    channel = 1 if image else -1
    far.index_fill_(channel, torch.tensor(GONE), 1e6)
    gone = gone[:, None, None] if image else gone
    whole = (
        {"num_groups": 2, "eps": 1e-5} if image else {"normalized_shape": [6], "eps": 1e-5, "cudnn_enable": True}
    )
    out = _STATISTICS[norm](far, gone, whole)
    plain = F.group_norm(far, 2) if image else F.layer_norm(far, [6])
    places = torch.tensor(GONE)
    assert torch.allclose(out.index_select(channel, places), plain.index_select(channel, places))
    assert out.abs().max() < 100
    stays = torch.tensor(STAYS)
    kept = x.index_select(channel, stays)
    alone = F.group_norm(kept, 2) if image else F.layer_norm(kept, [4])
    assert torch.allclose(out.index_select(channel, stays), alone)


def test_masks_of_one_call_leave_the_next_as_it_was():
    model = Between(lambda self, x: self.norm(x)).double()
    analysis = prune.analyze(model, ROWS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (first,) = masked_outputs(analysis, without(analysis, "a", GONE))
    (whole,) = masked_outputs(analysis, analysis.everything)
    (again,) = masked_outputs(analysis, without(analysis, "a", GONE))
    assert torch.equal(first, again) and torch.equal(whole, model.eval()(ROWS)) and not torch.equal(first, whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
