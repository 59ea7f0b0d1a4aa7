import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, InputError, SurgeryError
from paretune.recipe import Context, parse_recipe


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.stride, self.planes = stride, after

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2: three stages of n blocks with 16, 32 and 64 channels, shortcuts of option A."""

    def __init__(self, n=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (before, after, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)], 1):
            blocks = [Block(before if i == 0 else after, after, stride if i == 0 else 1) for i in range(n)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.size(3)).view(x.size(0), -1))


IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_resnet20_with_widths_chosen_stage_by_stage(oracle):
    widths = {"layer1.*.conv1": 16, "layer2.*.conv1": 16, "layer3.*.conv1": 32}
    pruned = oracle(CifarResNet(), IMAGE, widths=widths)
    assert [getattr(pruned.model, f"layer{s}")[1].conv1.out_channels for s in (1, 2, 3)] == [16, 16, 32]
    assert pruned.model.layer3[2].conv2.weight.shape == (64, 32, 3, 3)
    assert pruned.before == {"macs": 40_551_040, "params": 269_722}
    assert pruned.unprunable == (
        ("linear", "it is the model's output", "nothing: the output's shape is what callers rely on"),
    )


def test_resnet20_to_half_of_its_macs_with_the_stream_pruned_too(oracle):
    pruned = oracle(CifarResNet(1), IMAGE, macs=0.5, scope="isomorphic")
    assert 0.45 < pruned.after["macs"] / pruned.before["macs"] <= 0.5
    assert "conv1" in pruned.widths


@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_prediction_is_what_the_cut_gives(form):
    model, image = CifarResNet(1), IMAGE.float()
    analysis = prune.analyze(model, image)
    how = {"widths": {"layer*.conv1": 9}} if form == "module" else {"macs": 0.4, "multiple": 4, "scope": "local"}
    selection = prune.select(analysis, **how)
    predicted, pruned = prune.predict(analysis, selection), prune.cut(analysis, selection)
    again = prune.analyze(pruned.model, image)
    assert pruned.cuts.form == form and (predicted.macs, predicted.params) == (again.macs, again.params)
    now = {row["layer"]: row["shape"] for row in again.table()}
    after = {row["layer"]: row["after"] for row in predicted.layers}
    assert {"conv1", "layer1.0.conv2", "layer3.0.conv2", "linear"} <= set(now) and now.items() <= after.items()
    assert predicted.layers[0]["shape"] == [1, 16, 32, 32]
    if form == "module":
        assert now == after


def test_savings_of_a_group_are_what_reducing_it_alone_saves():
    analysis = prune.analyze(CifarResNet(1), IMAGE.float())
    rows = analysis.group_table()
    assert rows[0]["group"] == "conv1 (+3)" and rows[0]["layers"][:2] == ["conv1", "layer1.0.conv2"]
    for row in rows[1:]:  # the inner widths are free of the shortcut: one channel is left of each
        pruned = prune.cut(analysis, prune.select(analysis, widths={row["layers"][0]: 1}))
        assert row["macs"] == pruned.before["macs"] - pruned.after["macs"]
        assert row["params"] == pruned.before["params"] - pruned.after["params"]


def test_half_precision_and_train_mode_are_kept():
    model = CifarResNet(1).bfloat16().train()
    pruned = prune.channels(model, IMAGE.bfloat16(), ratio=0.5)
    assert pruned.model.conv1.weight.dtype == torch.bfloat16 and pruned.model.training and model.training


def test_frozen_parameters_stay_frozen():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    pruned = prune.channels(model, torch.randn(1, 4), ratio=0.5)
    assert [p.requires_grad for p in pruned.model.parameters()] == [False, False, True, True]


def test_a_model_with_nothing_to_prune_lists_the_reasons_by_layer():
    with pytest.raises(
        InfeasibleError, match=r"no layer of this model(.|\n)*fc: it is the model's output"
    ) as error:
        prune.channels(nn.Sequential(nn.Flatten(), nn.Sequential()).append(Named()), torch.randn(1, 4), ratio=0.5)
    assert error.value.exit_code == 3


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)


class Fussy(nn.Module):
    """Runs with one channel less, as a probe of its code tries, and fails with fewer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x)
        if x.shape[1] < 6:
            raise ValueError("too narrow")
        return self.b(x)


def test_a_cut_that_the_code_does_not_follow_is_delivered_as_the_graph(oracle):
    with pytest.raises(SurgeryError, match=r"does not follow this cut: ValueError: too narrow .*form=\"auto\""):
        prune.channels(Fussy(), torch.randn(1, 4), ratio=0.5, form="module")
    assert prune.channels(Fussy(), torch.randn(1, 4), widths={"a": 6}).model.a.out_features == 6
    pruned = oracle(Fussy(), torch.randn(1, 4), ratio=0.5)
    assert pruned.cuts.form == "graph" and pruned.widths == {"a": 4}
    assert "own forward does not follow (ValueError: too narrow (at test_channels.py:" in pruned.notes[-1]


class Scaled(nn.Module):
    """Divides by its width: the code follows a cut, but the function changes."""

    def __init__(self, wrap):
        super().__init__()
        self.a, self.b, self.wrap = nn.Linear(4, 8), nn.Linear(8, 2), wrap

    def forward(self, x):
        x = self.a(x)
        return self.wrap(self.b(x / x.shape[1]))


@pytest.mark.parametrize(
    "wrap", [lambda y: y, lambda y: OrderedDict(out=y), lambda y: [y], lambda y: {"out": (y, None)}]
)
def test_a_function_that_changes_without_failing_is_noticed(oracle, wrap):
    with pytest.raises(InfeasibleError, match="another function"):
        prune.channels(Scaled(wrap), torch.randn(1, 4), ratio=0.5, form="module")
    pruned = oracle(Scaled(wrap), torch.randn(1, 4), ratio=0.5)
    assert pruned.cuts.form == "graph" and "another function" in pruned.notes[-1]
    assert type(pruned.model(torch.randn(1, 4).double())) is type(wrap(torch.zeros(1)))


class Coincidence(nn.Module):
    """Its width and its number of rounds are the same number, and both stand in attributes."""

    def __init__(self):
        super().__init__()
        self.width, self.rounds = 6, 6
        self.a, self.b = nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x):
        x = self.a(x)
        for _ in range(self.rounds):
            x = torch.sin(x)
        return self.b(x.unsqueeze(1).expand(-1, 2, -1).reshape(-1, 2 * self.width))


def test_a_number_that_only_equals_a_width_stays_where_the_function_would_change(oracle):
    pruned = oracle(Coincidence(), torch.randn(1, 4), form="module", widths={"a": 4})
    assert (pruned.model.width, pruned.model.rounds) == (4, 6)


def test_the_step_prunes_and_recalibrates(tiny_task):
    model = tiny_task.build()
    step = prune.Channels(macs=0.5, recalibrate=64, repair=0)
    result = step.apply(copy.deepcopy(model), tiny_task, Context())
    assert result.details["after"]["macs"] <= 0.5 * result.details["before"]["macs"]
    assert {"layer", "shape", "after", "prunable"} <= set(result.details["layers"][0])
    replayed = prune.replay(model, result.cuts[0])
    state = result.model.state_dict()
    assert {name: t.shape for name, t in replayed.state_dict().items()} == {n: t.shape for n, t in state.items()}
    plain = (
        prune.Channels(macs=0.5, recalibrate=0, repair=0)
        .apply(tiny_task.build(), tiny_task, Context())
        .model.state_dict()
    )
    moved = [name for name in state if name.endswith("running_mean")]
    assert moved and all(not torch.equal(state[name], plain[name]) for name in moved)
    assert all(torch.equal(state[name], plain[name]) for name in state if name.endswith("weight"))


def test_the_step_in_a_recipe():
    recipe = parse_recipe(
        {"steps": [{"prune.channels": {"widths": {"0": 4}, "protect": ["2"]}}, "prune.channels"]}
    )
    first, second = recipe.steps
    assert isinstance(first, prune.Channels) and first.widths == {"0": 4} and first.protect == ("2",)
    assert second.ratio == 0.5 and second.parameters()["score"] is None
    assert parse_recipe(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1.0}, r"ratio=1.0 must be at least 0(\.0)? and below 1"),
        ({"macs": -1.5}, r"macs=-1.5 must be above 0"),
        ({"macs": "lots"}, "macs"),
        ({"ratio": 0.5, "macs": 0.5}, "give one of ratio, threshold, .*, not ratio and macs"),
        ({"scope": "both"}, "scope='both' must be one of global, local"),
        ({"score": "l1norm"}, "no method 'l1norm' in scores"),
        ({"multiple": 0}, "multiple=0"),
    ],
)
def test_fields_of_the_step_are_checked_when_it_is_built(fields, message):
    with pytest.raises(InputError, match=message) as error:
        prune.Channels(**fields)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("part", ["follow", "masked_outputs", "rewrite"])
def test_a_mistake_of_ours_is_not_blamed_on_the_models_forward(monkeypatch, part):
    def broken(*arguments, **options):
        raise NameError("name 'steps' is not defined")

    monkeypatch.setattr(f"paretune.prune._deliver.{part}", broken)
    with pytest.raises(NameError, match="steps"):
        prune.channels(Fussy(), torch.randn(2, 4), ratio=0.5)


class Branches(nn.Module):
    """A 1x1 and a 3x3 convolution side by side, concatenated before a depthwise one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.small, self.wide = nn.Conv2d(16, 32, 1), nn.Conv2d(16, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.cat([self.small(x), self.wide(x)], dim=1)
        return self.head(self.depthwise(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("combine", ["mean", "first"])
def test_branches_of_a_concatenation_are_compared_whatever_their_fan_in(oracle, combine):
    model = oracle(Branches(), torch.randn(1, 16, 8, 8, dtype=torch.float64), ratio=0.5, combine=combine).model
    assert 8 <= model.small.out_channels <= 24
