"""Weights that are computed from parameters become parameters first; a replay does it too."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as masks
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from paretune import prune
from paretune.cuts import Cuts, fold_parametrizations, parametrized
from paretune.errors import SurgeryError
from paretune.prune._surgery.fold import computed_weights

EXAMPLE = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def own(module):
    parametrize.register_parametrization(module, "weight", Twice())
    parametrize.register_parametrization(module, "bias", Twice())


def masked(module):
    masks.random_unstructured(module, "weight", 0.3)
    masks.l1_unstructured(module, "weight", 0.3)  # two masks of one tensor
    masks.l1_unstructured(module, "bias", 0.5)


PARAMETRIZATIONS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, deprecated": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, deprecated": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "of the user's own": own,
    "masks": masked,
}


def network(kind):
    """Return 5 -> 8 -> 3 with a parametrized first layer, whose running estimates have left their start."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    PARAMETRIZATIONS[kind](model[0])
    model(EXAMPLE)
    return model.eval()


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_what_a_parametrization_gives_becomes_the_weight(kind):
    model = network(kind)
    expected, before, weight = model(EXAMPLE), copy.deepcopy(model.state_dict()), model[0].weight.detach().clone()
    pruned = prune.channels(model, EXAMPLE, ratio=0.5, score="l1")

    rows = list(next(c for c in pruned.cuts.cuts if c.tensor == "0.weight").keep)
    lowest = weight.abs().sum(1).argsort()[:4]
    assert sorted(rows) == sorted(set(range(8)) - set(lowest.tolist()))  # scored as it computes
    first = pruned.model[0]
    assert type(first) is nn.Linear and (first.in_features, first.out_features) == (5, 4)
    assert isinstance(first.weight, nn.Parameter) and torch.equal(first.weight, weight[rows])
    assert list(dict(first.named_parameters())) in (["weight", "bias"], ["bias", "weight"])

    assert pruned.cuts.form == "module" and pruned.cuts.folded == ("0",)
    assert "folded into plain weights first: 0" in pruned.notes
    assert parametrized(model) == ("0",)  # the one that was given is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(EXAMPLE), expected)


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_folding_alone_changes_no_output_and_a_replay_folds_too(kind):
    model = network(kind)
    folded = fold_parametrizations(copy.deepcopy(prune.analyze(model, EXAMPLE).model), ())
    assert parametrized(folded) == () and torch.equal(folded.eval()(EXAMPLE), model(EXAMPLE))

    pruned = prune.channels(model, EXAMPLE, ratio=0.5)
    cuts = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    fresh = network(kind)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(0.5)  # a fresh model has other weights; those of the pruned one are loaded
    again = prune.replay(fresh, cuts).eval()
    again.load_state_dict(pruned.model.state_dict())
    assert torch.equal(again(EXAMPLE), pruned.model.eval()(EXAMPLE))


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
@pytest.mark.parametrize("learns", [True, False])
def test_a_folded_weight_learns_where_what_it_was_made_from_did(kind, learns):
    model = network(kind).requires_grad_(learns)
    assert {p.requires_grad for p in prune.channels(model, EXAMPLE, ratio=0.5).model.parameters()} == {learns}


def test_weight_norm_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    parametrizations.weight_norm(model[0])
    with torch.no_grad():
        model[0].parametrizations.weight.original0.copy_(torch.tensor([[10.0], [1.0]]))  # lengths of the rows
        model[0].parametrizations.weight.original1.copy_(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))  # directions
        model[1].weight.copy_(torch.tensor([[1.0, 1.0]]))
    pruned = prune.channels(model, torch.ones(1, 2, dtype=torch.float64), ratio=0.5)
    torch.testing.assert_close(
        pruned.model[0].weight.tolist(), [[6.0, 8.0]]
    )  # 10 * (3, 4) / 5; the long one stays
    torch.testing.assert_close(pruned.model(torch.tensor([[1.0, 2.0]]).double()).item(), 22.0)


class Standardised(nn.Linear):
    """Every row of its weight with mean 0 and length 1, as `forward` computes it."""

    def forward(self, x):
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight / weight.norm(dim=1, keepdim=True), self.bias)


def standardised():
    torch.manual_seed(0)
    return nn.Sequential(Standardised(5, 8), nn.Tanh(), Standardised(8, 3)).double()


def test_weights_that_forward_computes_are_those_of_the_whole_layer():
    model = standardised()
    pruned = prune.channels(model, EXAMPLE, widths={"0": 5})
    keep = list(next(c for c in pruned.cuts.cuts if c.tensor == "0.weight").keep)
    # by hand: the second layer reads 5 columns of rows that were standardised over all 8
    hidden = model[:2](EXAMPLE)[:, keep]
    whole = model[2].weight - model[2].weight.mean(1, keepdim=True)
    weight = (whole / whole.norm(dim=1, keepdim=True))[:, keep]
    torch.testing.assert_close(pruned.model(EXAMPLE), hidden @ weight.T + model[2].bias, rtol=0, atol=1e-12)
    assert "2 weights that forward computes were folded first, in the captured graph" in pruned.notes
    assert {n: tuple(p.shape) for n, p in pruned.model.named_parameters()} == {
        "0.weight": (5, 5), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)
    }  # fmt: skip
    pruned.model(EXAMPLE).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pruned.model.parameters())

    cuts = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    again = prune.replay(standardised(), cuts)
    assert torch.equal(again(EXAMPLE), pruned.model(EXAMPLE))


class Gained(Standardised):
    """A gain for every row, as in NF-nets: it is part of the weight once that is folded."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.rand(outputs, 1))

    def forward(self, x):
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, self.gain * weight / weight.norm(dim=1, keepdim=True), self.bias)


def test_what_a_folded_weight_was_made_from_is_gone():
    model = nn.Sequential(Gained(5, 8), nn.Tanh(), Gained(8, 3)).double()
    pruned = prune.channels(model, EXAMPLE, ratio=0.5)
    assert set(pruned.model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    fresh = nn.Sequential(Gained(5, 8), nn.Tanh(), Gained(8, 3)).double()
    again = prune.replay(fresh, pruned.cuts)
    again.load_state_dict(pruned.model.state_dict())
    assert torch.equal(again(EXAMPLE), pruned.model(EXAMPLE))


def test_a_computed_weight_is_frozen_where_all_that_it_is_made_from_is():
    model = standardised()
    model[0].requires_grad_(False)
    pruned = prune.channels(model, EXAMPLE, ratio=0.5)
    assert {n for n, p in pruned.model.named_parameters() if p.requires_grad} == {"2.weight", "2.bias"}


def test_where_forward_computes_a_weight_the_own_class_cannot_be_had_and_that_is_said_at_once():
    with pytest.raises(
        SurgeryError, match=r"forward computes 0\.weight, 2\.weight, .* form=\"auto\", or .*parametrize"
    ):
        prune.channels(standardised(), EXAMPLE, ratio=0.5, form="module")
    analysis = prune.analyze(standardised(), EXAMPLE)
    with pytest.raises(SurgeryError, match="forward computes"):
        prune.cut(analysis, prune.select(analysis, ratio=0.5), form="module")


class Rearranged(nn.Module):
    """Weights that are parameters in another order, and one that depends on the input: neither is folded."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(24))
        self.c, self.gate = nn.Linear(8, 3), nn.Linear(5, 1)

    def forward(self, x):
        y = F.linear(x, self.a.t())
        return F.linear(y, self.b.view(3, 8)) + F.linear(y, self.c.weight * self.gate(x).mean())


def test_what_only_rearranges_or_depends_on_the_input_is_not_folded():
    model = Rearranged().double()
    analysis = prune.analyze(model, EXAMPLE)
    assert computed_weights(analysis.captured) == [] and analysis.base == () and analysis.notes == ()
    assert analysis.model is model
