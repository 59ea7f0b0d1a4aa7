"""Learned importance: both readings of the recursion by hand, what gates cost and do, and the cut at the end."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.errors import InfeasibleError, InputError, RecipeError, TaskError
from paretune.prune import Learned, Selection, Trajectory, replay
from paretune.prune._learned.expected import Expected
from paretune.prune._learned.gates import Gated
from paretune.prune._learned.places import gated, places_of, reads_of
from paretune.prune._learned.recursion import move
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

ROWS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long() + (ROWS[:, 1] > 0).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-2}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def task(**fields):
    given = {"model": net, "train": (ROWS, LABELS), "val": (ROWS, LABELS), "batch_size": 16}  # 6 steps an epoch
    return Task(name="rows", **given | fields)


class Block(nn.Module):
    """A residual block with a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.conv3 = nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.Conv2d(12, 8, 1)

    def forward(self, x):
        return x + self.conv3(self.conv2(self.norm1(self.conv1(x)).relu()).relu())


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 2)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def images():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Block(), Block(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    return nn.Sequential(*body, nn.Linear(32, 4)), torch.randn(2, 3, 8, 8)


def tokens():
    torch.manual_seed(0)
    stem, head = nn.Linear(5, 8), nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    return nn.Sequential(stem, Heads(), head), torch.randn(2, 4, 5)


def rows():
    return net(), ROWS[:2]


NETWORKS = {"rows": rows, "images": images, "tokens": tokens}


def under(model, example, together=True, protect=()):
    """Return (analysis, places, the model under gates, its cost in multiply-accumulates)."""
    analysis = prune.analyze(model.double().eval(), example.double())
    groups, _ = gated(analysis, analysis.groups)
    places = places_of(groups, analysis.couplings.units)
    cost = Expected(places, analysis.couplings.units, *analysis.counted("macs"))
    return (
        analysis,
        places,
        Gated(analysis.model, places, reads_of(analysis, places), cost, 1.0, together=together),
        cost,
    )


# The recursion


A, W, V = (1.0, 2.0), ((1.0, 1.0), (0.0, 1.0)), (1.0, -1.0)
RATE, PENALTY = 9.0, 3.0


def two_layers():
    """y = sum_j V_j h_j z_j, z_j = sum_i W_ji g_i A_i x, with gates g and h: linear, to be done by hand."""
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((1, 2), (2, 2), (2, 1))))
    with torch.no_grad():
        for layer, values in zip(model, ([[a] for a in A], W, [V]), strict=True):
            layer.weight.copy_(torch.tensor(values))
    return model


def ways(recursion, epochs=1, **how):
    """Train on one batch an epoch, x = 1, loss y; return the betas (least, greatest) of both layers by step."""
    lines = Task(
        name="line", model=two_layers, train=(torch.ones(4, 1), torch.zeros(4, 1)), batch_size=4,
        loss=lambda output, target: output.mean(), metric=lambda output, target: 0.0,
    )  # fmt: skip
    pruned = prune.learned(
        two_layers(), lines, ratio=0.5, rate=RATE, recursion=recursion, epochs=epochs, together=False,
        repair=0, recalibrate=0, **{"optimizer": "sgd", "penalty": PENALTY} | how, **FIXED,
    )  # fmt: skip
    first, second = pruned.trajectories
    assert first.steps == tuple(range(epochs + 1)) and (first.group, second.group) == ("0", "1")
    return [(first.quantiles[i][0], first.quantiles[i][-1], *second.quantiles[i][::4]) for i in range(epochs + 1)]


def test_l_as_iteration_by_hand():
    """All gates start at 2/3, their slope is 2/9. z = (2/3 + 4/3, 4/3) = (2, 4/3), so dy/dh = V z = (2, -4/3), and
    dy/dg = A_i sum_j V_j h_j W_ji = (2/3, 2 (2/3 - 2/3)) = (2/3, 0). Of four channels two may stay and all do: the
    penalty's slope in each gate is 3 / 2. Rate times slope is 2, so beta falls by 2 (dy/dgate + 3/2)."""
    start, step = ways("iteration")
    log2 = math.log(2)
    assert start == pytest.approx([log2] * 4, abs=1e-4)
    assert step == pytest.approx(
        [log2 - 2 * (2 / 3 + 1.5), log2 - 2 * 1.5, log2 - 2 * (2 + 1.5), log2 - 2 * (-4 / 3 + 1.5)], abs=1e-4
    )


def test_l_as_layer_by_hand():
    """The first layer moves as above; Z(1) under its new gates then yields beta(2): z = (g1 + 2 g2, 2 g2). By then
    both of the first layer's gates are below a half, so that the budget is met and has no slope."""
    start, first, second, third = ways("layer", epochs=3)
    log2 = math.log(2)
    beta1 = [log2 - 2 * (2 / 3 + 1.5), log2 - 2 * 1.5]
    assert start == pytest.approx([log2] * 4, abs=1e-4)
    assert first == pytest.approx([*beta1, log2, log2], abs=1e-4)
    g1, g2 = (1 / (1 + math.exp(-b)) for b in beta1)
    assert max(g1, g2) < 0.5
    beta2 = [log2 - 2 * (g1 + 2 * g2), log2 - 2 * (-2 * g2)]
    assert second == pytest.approx([*beta1, *beta2], abs=1e-4)
    h1, h2 = (1 / (1 + math.exp(-b)) for b in beta2)  # the next sweep begins: beta(1) goes on from where it was
    slopes = [g1 * (1 - g1) * h1, g2 * (1 - g2) * 2 * (h1 - h2)]
    assert third == pytest.approx(
        [*sorted(b - RATE * s for b, s in zip(beta1, slopes, strict=True)), *beta2], abs=1e-4
    )


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adagrad", torch.optim.Adagrad)])
@given(seed=st.integers(0, 2**32 - 1), rate=st.floats(1e-3, 10))
@settings(max_examples=20)
def test_the_optimizers_of_torch_move_beta_likewise(name, kind, seed, rate):
    generator = torch.Generator().manual_seed(seed)
    beta, squares = torch.randn(5, generator=generator), torch.zeros(5)
    theirs = beta.clone().requires_grad_()
    optimizer = kind([theirs], lr=rate)
    for _ in range(4):
        theirs.grad = torch.randn(5, generator=generator)
        move(beta, squares, theirs.grad, optimizer=name, rate=rate)
        optimizer.step()
    assert torch.allclose(beta, theirs.detach(), rtol=1e-5, atol=1e-6)


# The gates


@pytest.mark.parametrize("network", list(NETWORKS))
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_gates_of_0_and_1_give_what_the_cut_model_gives_and_costs(network, seed):
    """The oracle is the cut model itself."""
    analysis, places, model, cost = under(*NETWORKS[network]())
    random = np.random.default_rng(seed)
    gone = []
    for group in places.groups:
        if group.structure != "embedding":  # what the statistics of a norm are taken over changes with the cut
            most = min(group.blocks.shape[1] - 1, 3)
            gone.append(
                group.blocks[:, random.permutation(group.blocks.shape[1])[: random.integers(0, most + 1)]].ravel()
            )
    removed = np.concatenate(gone)
    beta = torch.full((places.count,), 1e4)
    beta[places.of_unit[removed]] = -1e4
    model.beta.copy_(beta)
    pruned = prune.cut(analysis, Selection(removed, {}))
    inputs = analysis.captured.example
    inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    with torch.no_grad():
        assert torch.allclose(model.eval()(inputs), pruned.model.eval()(inputs), rtol=0, atol=1e-10)
    gates = torch.sigmoid(beta)
    assert float(cost(gates)) == pytest.approx(analysis.macs_of(analysis.keep(removed)), rel=1e-6)
    params = Expected(places, analysis.couplings.units, *analysis.counted("params"))
    assert float(params(gates)) == pytest.approx(analysis.params_of(analysis.keep(removed)), rel=1e-6)


def test_the_expected_cost_is_the_mean_over_all_cuts():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    _, places, _, cost = under(model, torch.randn(2, 3))
    assert places.count == 5
    gates = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.8])
    mean = 0.0
    for stays in itertools.product((0, 1), repeat=5):
        chance = math.prod(g if s else 1 - g for g, s in zip(gates.tolist(), stays, strict=True))
        first, second = sum(stays[:3]), sum(stays[3:])
        mean += chance * (3 * first + first * second + second * 1)
    assert float(cost(gates)) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_folding_the_gates_in_changes_nothing(network):
    _, places, model, _ = under(*NETWORKS[network]())
    model.beta.copy_(torch.randn(places.count, generator=torch.Generator().manual_seed(1)))
    inputs = NETWORKS[network]()[1].double()
    with torch.no_grad():
        before = model.eval()(inputs)
        assert torch.allclose(model.fold()(inputs), before, rtol=0, atol=1e-12)


def test_channels_that_nothing_with_weights_reads_and_recurrent_layers_have_no_gate():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn, self.lift = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 8)
            self.mix, self.head = Heads(), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.mix(self.lift(self.rnn(self.conv(x).relu())[0])))

    analysis = prune.analyze(Net(), torch.randn(2, 3, 4))
    can, cannot = gated(analysis, analysis.groups)
    why = {group.label: reason for group, reason in cannot}
    assert "weights of a recurrent layer cannot be replaced" in why["conv"]
    assert why["mix.qkv, query_key,"] == "they are summed over where no weight holds their gates"
    assert any(group.structure == "heads" for group in can)


# The whole


@pytest.mark.parametrize("how", [{"macs": 0.5}, {"params": 0.6}, {"ratio": 0.5}, {"macs": 0.5, "together": False}])
@pytest.mark.parametrize("recursion", ["iteration", "layer"])
def test_the_target_is_met_and_the_model_given_stays(how, recursion):
    model = net()
    whole = copy.deepcopy(model.state_dict())
    seen = []
    context = Context(emit=lambda kind, fields: seen.append(fields) if kind == "epoch" else None)
    pruned = prune.learned(model, task(), recursion=recursion, epochs=3, context=context, **how, **FIXED)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    for name in ("macs", "params"):
        if name in how:
            limit = how[name] * pruned.before[name]
            assert 0.8 * limit < pruned.after[name] <= limit
    if "ratio" in how:
        assert pruned.model[0].out_features + pruned.model[3].out_features == 14
    assert len(pruned.fitted.curve) == len(seen) == 3 and pruned.fitted.model is pruned.model
    assert set(seen[0]["terms"]) == {"cross_entropy", "budget"}
    again = replay(net(), pruned.cuts)
    again.load_state_dict(pruned.model.state_dict())
    assert torch.equal(again.eval()(ROWS), pruned.model.eval()(ROWS))
    assert not any(isinstance(module, Gated) for module in pruned.model.modules())
    assert [way.channels for way in pruned.trajectories] == [16, 12]
    assert [round(way.quantiles[0][2], 4) for way in pruned.trajectories] == [
        round(math.log(16), 4), round(math.log(12), 4),
    ]  # fmt: skip


def test_the_lowest_betas_go():
    """Four channels carry the answer and are held open by the loss; four others have nothing but the penalty."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(0.01 * torch.randn(8, 6))
        model[0].weight[[1, 3, 4, 7], 0] = torch.tensor([1.0, -1.0, 0.5, -0.5])
        model[2].weight[:, [1, 3, 4, 7]] = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, -1.0]])
    halves = task(train=(ROWS, (ROWS[:, 0] > 0).long()), val=None)
    how = {
        "ratio": 0.5,
        "together": False,
        "epochs": 10,
        "penalty": 0.1,
        "rate": 0.3,
        "repair": 0,
        "recalibrate": 0,
    }
    pruned = prune.learned(model, halves, **how, **FIXED)
    assert pruned.widths == {"0": 4}
    assert torch.equal(pruned.model[0].weight, model[0].weight[[1, 3, 4, 7]])  # the weights stayed
    assert torch.equal(pruned.model[2].weight, model[2].weight[:, [1, 3, 4, 7]])


def test_gates_are_folded_into_weights_that_were_trained_with_them():
    """At next to no learning rate of the weights, what reads a channel is its gate's part of what it was."""
    how = {
        "ratio": 0.4,
        "epochs": 2,
        "rate": 0.3,
        "repair": 0,
        "recalibrate": 0,
        "protect": "0",
        **FIXED,
        "lr": 1e-12,
    }
    pruned, whole = prune.learned(net(), task(), **how), net()
    (way,) = pruned.trajectories
    parts = {}
    for column in pruned.model[5].weight.detach().T:
        factors = column[None] / whole[5].weight.detach().T
        match = int((factors.std(dim=1)).argmin())
        parts[match] = float(factors[match].mean())
    betas = torch.logit(torch.tensor(list(parts.values())))
    assert len(parts) == pruned.model[5].in_features < 12
    assert betas.max() == pytest.approx(way.quantiles[-1][-1], abs=1e-3) and betas.min() > way.quantiles[-1][0]


def test_weights_stay_and_so_does_batch_norm_unless_they_are_trained_together():
    kept = prune.learned(
        net(), task(), ratio=0.25, together=False, epochs=2, repair=0, recalibrate=0, protect="0", **FIXED
    )
    whole = net()
    for name, tensor in kept.model[:2].state_dict().items():
        assert torch.equal(tensor, whole[:2].state_dict()[name]), name
    trained = prune.learned(net(), task(), ratio=0.25, epochs=2, protect="0", **FIXED)
    assert not torch.equal(trained.model[0].weight, whole[0].weight)
    assert kept.widths.keys() == trained.widths.keys() == {"3"}


def test_kept_weights_make_up_for_what_went():
    """At a rate of next to nothing the gates stay open; what is repaired is closer to the model that came in."""
    how = {"ratio": 0.4, "together": False, "epochs": 1, "rate": 1e-6, "recalibrate": 0, **FIXED}
    whole, errors = net().eval()(ROWS).detach(), []
    for samples in (96, 0):
        pruned = prune.learned(net(), task(), repair=samples, **how)
        assert any("repaired in closed form" in note for note in pruned.notes) == bool(samples)
        errors.append(float((pruned.model(ROWS).detach() - whole).square().mean()))
    assert errors[0] < 0.7 * errors[1]


def test_masked_weights_stay_masked():
    sparse = prune.weights(net(), ratio=0.6).model
    pruned = prune.learned(sparse, task(), macs=0.6, epochs=2, **FIXED)
    found = masks.masked(pruned.model)
    assert {"0.weight", "3.weight", "5.weight"} <= set(found)
    first = sparse[0].weight == 0
    rows = [next(i for i in range(16) if torch.equal(first[i], mine)) for mine in pruned.model[0].weight == 0]
    assert len(rows) == pruned.model[0].out_features


class Standardised(nn.Conv2d):
    """A convolution whose forward computes its weights: they are folded into a captured graph before anything."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, (self.weight - mean) / self.weight.std((1, 2, 3), keepdim=True), self.bias)


def computed():
    torch.manual_seed(0)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(Standardised(1, 6, 3), nn.ReLU(), Standardised(6, 8, 3), *head)


def parametrized():
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 6, 3))
    return nn.Sequential(first, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("make", [computed, parametrized])
@pytest.mark.parametrize("together", [True, False])
def test_weights_that_are_computed_are_folded_first(make, together):
    pixels = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    small = Task(name="pixels", model=make, train=(pixels, torch.arange(64) % 3), batch_size=16)
    pruned = prune.learned(make(), small, macs=0.6, epochs=1, together=together, **FIXED)
    assert pruned.after["macs"] <= 0.6 * pruned.before["macs"]
    again = replay(make(), pruned.cuts)
    again.load_state_dict(pruned.model.state_dict())
    assert torch.equal(again.eval()(pixels), pruned.model.eval()(pixels))


def test_a_channel_counts_while_its_gate_is_above_a_half():
    """Linear 3-3-2-1 costs 9 + 6 + 2 = 17, 0.7 above a budget of 10; with one gate of the first layer below a half
    it costs 12. The slope in a gate of the second layer is what its channel costs: two inputs, one output."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    _, _, gated_model, _ = under(model, torch.randn(2, 3))
    gated_model.limit = 10.0
    gates = torch.tensor([0.6, 0.6, 0.6, 0.51, 0.51])
    for first, expected in ((0.6, 0.7), (0.4, 0.2)):
        gates[0] = first
        gated_model.beta.copy_(torch.logit(gates))
        gated_model.train()(torch.randn(2, 3).double())
        assert float(gated_model.excess().detach()) == pytest.approx(expected, abs=1e-6)
    gated_model.excess().backward()
    slopes = gated_model._leaf.grad / (gates * (1 - gates))
    assert slopes.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.3, 0.3], abs=1e-5)  # 3 + 2 and 2 + 1, of 10


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    how = {"macs": 0.5, "epochs": 4, "recursion": "layer", **FIXED}
    straight = prune.learned(net(), task(), **how, context=Context(folder=tmp_path / "a"))

    def stop(kind, fields):
        if kind == "epoch" and fields["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune.learned(net(), task(), **how, context=Context(folder=tmp_path / "b", emit=stop))
    resumed = prune.learned(net(), task(), **how, context=Context(folder=tmp_path / "b"))
    assert resumed.trajectories == straight.trajectories and len(straight.trajectories[0].steps) == 25
    state = straight.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())


def test_long_trainings_are_thinned():
    pruned = prune.learned(net(), task(batch_size=2), macs=0.5, epochs=2, **FIXED)
    (way, _) = pruned.trajectories
    assert way.steps[0] == 0 and way.steps[-1] == 96 and len(way.steps) == 33 == len(way.quantiles)
    assert all(list(row) == sorted(row) for row in way.quantiles)


def test_gates_that_are_open_still_are_told():
    short = prune.learned(net(), task(), macs=0.3, epochs=1, rate=1e-3, **FIXED)
    assert any("of the budget in the end" in note and "raise rate" in note for note in short.notes)
    long = prune.learned(net(), task(), macs=0.5, epochs=20, rate=0.5, penalty=10.0, **FIXED)
    assert not any("in the end" in note for note in long.notes)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"macs": 0.5, "optimizer": "adagard"}, RecipeError, r"optimizer='adagard' must be one of .*'adagrad'\?"),
        ({"macs": 0.5, "recursion": "layers"}, RecipeError, r"recursion='layers' must be .*'layer'\?"),
        ({"macs": 0.5, "weights_optimizer": "adamv"}, RecipeError, r"weights_optimizer='adamv' .*'adam"),
        ({"macs": 1.5}, InputError, "prune.learned: macs=1.5 is neither a fraction to keep, at most 1"),
        ({"macs": 0}, InputError, "prune.learned: macs=0 must be above 0"),
        ({"params": -1}, InputError, "prune.learned: params=-1 must be above 0"),
        ({"ratio": 1.0}, InputError, "ratio=1.0 must be at least 0 and below 1"),
        ({}, InputError, "give exactly one of ratio, macs, params; got none"),
        ({"macs": 0.5, "ratio": 0.5}, InputError, "got ratio and macs"),
        ({"macs": 0.5, "rate": 0}, InputError, "rate=0 must be a number above 0"),
        ({"macs": 0.5, "penalty": -1}, InputError, "penalty=-1 must be a number at least 0"),
        ({"macs": 0.5, "multiple": 0}, InputError, "multiple=0 must be a whole number"),
        ({"macs": 0.5, "epochs": 0}, RecipeError, "epochs=0 must be at least 1"),
        ({"macs": 0.5, "form": "modul"}, InputError, r"Did you mean 'module'\?"),
        ({"macs": 0.5, "protect": "layer9"}, InputError, "protect: 'layer9' matches no layer"),
        (
            {"macs": 0.001},
            InfeasibleError,
            "prune.learned: macs=0.001 is .* the least that this model can be cut to",
        ),
        ({"macs": 0.5, "protect": "*"}, InfeasibleError, "all of them are protected"),
    ],
)
def test_bad_input_is_told(how, error, message):
    with pytest.raises(error, match=message):
        prune.learned(net(), task(), **how)


def test_beta_without_data_is_refused_with_what_to_do():
    with pytest.raises(
        TaskError, match=r"beta is learned from data, and the task has none .* Task\(train=\.\.\.\)"
    ):
        prune.learned(net(), task(train=None), macs=0.5)


def test_the_step():
    (step,) = parse_recipe({"steps": [{"prune.learned": {"params": 0.6, "optimizer": "sgd", "epochs": 2}}]}).steps
    assert step == Learned(params=0.6, optimizer="sgd", epochs=2) and Learned().macs == 0.5
    for fields, message in (
        ({"optimizer": "adagard"}, r"Did you mean 'adagrad'\?"),
        ({"macs": 1.5}, "neither a fraction to keep"),
        ({"macs": 0.5, "params": 0.5}, "exactly one of ratio, macs, params"),
        ({"structures": ["chanels"]}, r"Did you mean 'channels'\?"),
        ({"rate": 0}, "rate=0 must be above 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe({"steps": [{"prune.learned": fields}]})
    seen = []
    context = Context(emit=lambda kind, fields: seen.append(fields) if kind == "beta" else None)
    result = Learned(epochs=2, **FIXED).apply(net(), task(), context)
    assert json.loads(json.dumps(result.details))["beta"] == json.loads(json.dumps(seen))
    assert [Trajectory(**row).group for row in seen] == ["0", "3"]
    assert len(result.details["curve"]) == 2 and len(result.cuts) == 1


def test_a_narrow_layer_does_not_go_first_for_being_narrow():
    """Untouched gates rank no layer below another, though beta begins at log n."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    rows = torch.randn(64, 8)
    data = (rows, (rows[:, 0] > 0).long())
    of_rows = Task(name="rows", model=lambda: model, train=data, val=data, batch_size=32)
    made = prune.learned(model, of_rows, ratio=0.5, epochs=1, warmup=0.0, penalty=0.0, rate=1e-6, repair=0)
    assert 28 <= made.widths["0"] <= 36 and 6 <= made.widths["2"] <= 10
