"""Penalties on whole channels: whose weights they are, group lasso and growing regularisation."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from paretune import prune
from paretune.cuts import replay
from paretune.errors import InfeasibleError, InputError, RecipeError
from paretune.prune import Greg, GroupLasso, analyze, cut
from paretune.prune._cut import Selection
from paretune.prune._learned.places import places_of
from paretune.prune._regular.greg import factor_at
from paretune.prune._regular.group_lasso import group_norms
from paretune.prune._regular.slices import Slices
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

IMAGES = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0].mean((1, 2)) > 0).long() + (IMAGES[:, 1].mean((1, 2)) > 0).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-2, "epochs": 4}
DESCENT = FIXED | {"optimizer": "sgd", "lr": 0.05, "epochs": 12}
STEPS = {"group_lasso": GroupLasso, "greg": Greg}


class Residual(nn.Module):
    """A stem, a grouped convolution beside a shortcut, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.outer(self.inner(x))).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Residual()


def task():
    return Task(name="images", model=net, train=(IMAGES, LABELS), val=(IMAGES, LABELS), batch_size=16)


def slices_of(model, example):
    analysis = analyze(model, example)
    places = places_of(analysis.groups, analysis.couplings.units)
    return analysis, places, Slices(analysis, places)


def test_the_weights_of_a_unit_by_hand():
    """A hidden unit has its two weights, its bias, and the weight that reads it: 3, 4, 12 and 0; 1, 2, 2 and 4."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    for parameter, values in zip(model.parameters(), ([[3, 4], [1, 2]], [12, 2], [[0, 4]], [9]), strict=True):
        parameter.data.copy_(torch.tensor(values))
    _, _, slices = slices_of(model, torch.zeros(1, 2))
    assert slices.sizes.tolist() == [4, 4]
    assert slices.squares().tolist() == [169, 25]
    assert group_norms(slices).item() == pytest.approx(2 * 13 + 2 * 5)
    group_norms(slices).backward()
    assert torch.allclose(
        model[0].weight.grad, 2 * torch.tensor([[3.0, 4.0], [1.0, 2.0]]) / torch.tensor([[13], [5]])
    )
    assert model[2].bias.grad is None
    masks = slices.masks(torch.tensor([True, False]))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "0.weight": [[True, True], [False, False]],
        "0.bias": [True, False],
        "2.weight": [[True, False]],
    }


def test_a_unit_has_the_weights_that_go_when_it_is_cut():
    """The oracle is the cut itself: what is left has exactly so many parameters, and so large ones, less."""
    model = net()
    analysis, places, slices = slices_of(model, IMAGES[:2])
    whole = sum(parameter.square().sum().item() for parameter in model.parameters())
    for group in analysis.groups:
        bundle = group.blocks[:, 0]
        chosen = torch.zeros(places.count, dtype=torch.bool)
        chosen[places.of_unit[bundle]] = True
        made = cut(analysis, Selection(bundle, {})).model
        masks = slices.masks(chosen)
        assert sum(int(mask.sum()) for mask in masks.values()) == analysis.params - sum(
            parameter.numel() for parameter in made.parameters()
        )
        gone = sum(model.get_parameter(name)[mask].square().sum().item() for name, mask in masks.items())
        left = sum(parameter.square().sum().item() for parameter in made.parameters())
        assert whole - left == pytest.approx(gone, rel=1e-4)
        if len(bundle) == 1:
            assert slices.sizes[places.of_unit[bundle[0]]] == sum(int(mask.sum()) for mask in masks.values())
            assert slices.squares()[places.of_unit[bundle[0]]].item() == pytest.approx(gone, rel=1e-4)


def test_the_factor_grows_by_hand():
    assert [factor_at(step, grow=0.1, every=5, ceiling=0.25) for step in (0, 4, 5, 10, 15, 99)] == [
        0, 0, 0.1, 0.2, 0.25, 0.25,
    ]  # fmt: skip


def roots(model):
    """The root mean square of the weights of every channel, the smallest first."""
    _, _, slices = slices_of(model, IMAGES[:2])
    return np.sort((slices.squares() / slices.sizes).sqrt().detach().numpy())


def spread(model):
    """The ratio of the smallest quarter of the channels to the largest."""
    root = roots(model)
    return root[: len(root) // 4].mean() / root[-len(root) // 4 :].mean()


def test_group_lasso_makes_whole_channels_small(monkeypatch):
    from paretune.prune._regular import channelwise

    seen = []
    original = channelwise.cut_what_can_be
    monkeypatch.setattr(
        channelwise, "cut_what_can_be", lambda a, *rest: seen.append(copy.deepcopy(a.model)) or original(a, *rest)
    )
    how = {"ratio": 0.25, "repair": 0, **DESCENT}
    for strength in (0.0, 0.05):
        prune.group_lasso(net(), task(), strength=strength, **how)
    assert spread(seen[1]) < 0.7 * spread(seen[0])


def test_greg_empties_what_it_chose_and_little_else(monkeypatch):
    """Before the cut the chosen channels are nothing beside the others, so that cutting them changes little."""
    from paretune.prune._regular import channelwise

    seen = []
    original = channelwise.cut_what_can_be
    monkeypatch.setattr(
        channelwise, "cut_what_can_be", lambda a, *rest: seen.append(copy.deepcopy(a.model)) or original(a, *rest)
    )
    made = prune.greg(net(), task(), ratio=0.25, grow=0.5, every=1, repair=0, recalibrate=0, **DESCENT)
    gone = 8 + 12 - made.model.stem[0].out_channels - made.model.inner[0].out_channels
    root = roots(seen[0])
    assert gone and root[gone - 1] < 0.02 * root[gone]
    gap = (seen[0].eval()(IMAGES) - made.model(IMAGES)).abs().max()
    assert gap < 0.05 * seen[0](IMAGES).abs().max()


@pytest.mark.parametrize("method", [prune.group_lasso, prune.greg])
@pytest.mark.parametrize("goal", [{"macs": 0.5}, {"params": 0.6}, {"ratio": 0.4}])
def test_the_goal_is_met_and_the_model_given_stays(method, goal):
    model = net()
    whole = copy.deepcopy(model.state_dict())
    made = method(model, task(), **goal, **FIXED | {"epochs": 1})
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    for name, asked in goal.items():
        if name != "ratio":
            assert 0.7 * asked < made.after[name] / made.before[name] <= asked
    assert made.fitted.model is made.model and len(made.fitted.curve) == 1
    again = replay(net(), made.cuts)
    again.load_state_dict(made.model.state_dict())
    assert torch.equal(again.eval()(IMAGES), made.model(IMAGES))


@pytest.mark.parametrize("method", [prune.group_lasso, prune.greg])
def test_a_killed_training_goes_on_to_the_same_bits(method, tmp_path):
    how = {"macs": 0.5, **FIXED, "epochs": 3}
    straight = method(net(), task(), **how)

    def stop(kind, fields):
        if kind == "epoch" and fields["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method(net(), task(), **how, context=Context(folder=tmp_path, emit=stop))
    resumed = method(net(), task(), **how, context=Context(folder=tmp_path))
    state = straight.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())


@pytest.mark.parametrize("method", [prune.group_lasso, prune.greg])
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, InputError, "give exactly one of ratio, macs, params; got none"),
        ({"ratio": 0.5, "macs": 0.5}, InputError, "got ratio and macs"),
        ({"ratio": 1.0}, InputError, "ratio=1.0 must be at least 0 and below 1"),
        ({"macs": 1.5}, InputError, "macs=1.5"),
        ({"macs": 1e-6}, InfeasibleError, "macs"),
        ({"ratio": 0.5, "protect": "stm"}, InputError, r"'stm' matches no layer. Did you mean 'stem"),
        ({"ratio": 0.5, "structures": "chanels"}, InputError, r"Did you mean 'channels'\?"),
        ({"ratio": 0.5, "form": "modul"}, InputError, "modul"),
        ({"ratio": 0.5, "epochs": 0}, RecipeError, "epochs=0 must be at least 1"),
    ],
)
def test_bad_input_is_told(method, how, error, message):
    with pytest.raises(error, match=message):
        method(net(), task(), **how)


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        (prune.group_lasso, {"strength": -1.0}, "strength=-1.0 must be a number of at least 0"),
        (prune.greg, {"grow": 0.0}, "grow=0.0 must be a number above 0"),
        (prune.greg, {"ceiling": -1.0}, "ceiling=-1.0 must be a number above 0"),
        (prune.greg, {"every": 0}, "every=0 must be a whole number of at least 1"),
    ],
)
def test_a_penalty_of_nonsense_is_refused(method, how, message):
    with pytest.raises(InputError, match=message):
        method(net(), task(), ratio=0.5, **how)


@pytest.mark.parametrize("name", STEPS)
def test_the_steps(name):
    (step,) = parse_recipe({"steps": [{f"prune.{name}": {"params": 0.6, "epochs": 2}}]}).steps
    assert step == STEPS[name](params=0.6, epochs=2) and STEPS[name]().macs == 0.5
    with pytest.raises(RecipeError, match=r"ratio=1\.5 must be at least 0 and below 1"):
        parse_recipe({"steps": [{f"prune.{name}": {"ratio": 1.5}}]})
    result = STEPS[name](params=0.6, **FIXED).apply(net(), task(), Context())
    assert json.dumps(result.details) and len(result.details["curve"]) == 4 and len(result.cuts) == 1
    assert result.details["after"]["params"] <= 0.6 * result.details["before"]["params"]


def test_the_sizes_follow_the_weights_to_their_device():
    analysis = analyze(Residual(), IMAGES[:2])
    slices = Slices(analysis, places_of(analysis.groups, analysis.couplings.units))
    analysis.model.to("meta")
    assert group_norms(slices).device.type == "meta"


def test_a_training_of_other_channels_is_not_resumed_from(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    rows = torch.randn(64, 8)
    data = (rows, (rows[:, 0] > 0).long())
    of_rows = Task(name="rows", model=lambda: model, train=data, val=data, batch_size=16)
    for protect in (["0"], ["2"]):
        seen = []
        context = Context(folder=tmp_path, emit=lambda kind, fields, seen=seen: seen.append(kind))
        prune.greg(model, of_rows, ratio=0.5, protect=protect, repair=0, context=context, **FIXED)
        assert seen.count("epoch") == FIXED["epochs"]
    with pytest.raises(RecipeError, match="patience=1 could end the training before the factor"):
        prune.greg(model, of_rows, patience=1, **FIXED)
