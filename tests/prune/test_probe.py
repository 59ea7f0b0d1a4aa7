"""Where the user's own class is asked for: what its code follows is pruned, the rest stays whole and says why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError
from paretune.prune._couplings.rules import TABLE
from paretune.prune._probe import followed
from paretune.recipe import Context
from paretune.task import Task

ROWS = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Chain(nn.Module):
    """Four layers of 8 on each other; those that are named are read through a number in the code."""

    def __init__(self, *written):
        super().__init__()
        torch.manual_seed(0)
        self.written = written
        self.layers = nn.ModuleList(nn.Linear(5 if i == 0 else 8, 8) for i in range(4))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if index in self.written:
                x = x.view(-1, 8)
        return self.out(x)


@pytest.mark.parametrize("written", [(), (1, 3), (0, 1, 2, 3)])
def test_the_groups_that_the_code_follows_are_those_that_are_found_one_by_one(written):
    model = Chain(*written).double()
    analysis = prune.analyze(model, ROWS)
    alone = []
    for group in analysis.groups:  # the slow way: each by itself
        pruned = prune.cut(analysis, prune.select(analysis, widths={group.layers[0]: 7}))
        alone += [group.layers[0]] if pruned.cuts.form == "module" else []
    assert alone == [f"layers.{i}" for i in range(4) if i not in written]

    found = followed(prune.analyze(model, ROWS))
    assert [group.layers[0] for group in found.groups] == alone
    whole = {name: (reason, remedy) for name, reason, remedy in found.unprunable}
    assert set(whole) == {f"layers.{i}" for i in written} | {"out"}
    for index in written:
        reason, remedy = whole[f"layers.{index}"]
        assert "own forward does not follow: RuntimeError: shape '[-1, 8]' is invalid" in reason
        assert "x = x.view(-1, 8)" in reason and 'form="auto"' in remedy
    assert "model's output" in whole["out"][0]


def test_the_result_is_the_own_class_with_what_it_follows(oracle):
    pruned = oracle(Chain(1, 3), ROWS, form="module", ratio=0.5, scope="local")
    assert type(pruned.model) is Chain
    assert [layer.out_features for layer in pruned.model.layers] == [4, 8, 4, 8]


class Together(nn.Module):
    """Follows when one of two widths changes, and fails when both do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.out2 = nn.Linear(8, 3)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        if a.shape[1] + b.shape[1] < 15:
            raise ValueError("both too narrow")
        return self.out(a) + self.out2(b)


def test_groups_that_pass_alone_must_pass_together():
    found = followed(prune.analyze(Together().double(), ROWS))
    assert [group.layers for group in found.groups] == [("a",)]
    assert "ValueError: both too narrow" in {name: reason for name, reason, _ in found.unprunable}["b"]


class Mixed(nn.Module):
    """Of a layer of 8, 4 are read by a slice that is written down and 4 by what is left."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(x[:, :4]) + self.c(F.relu(x[:, 4:]))


def test_of_a_group_the_kind_of_unit_that_the_code_follows_goes(oracle):
    pruned = oracle(Mixed(), ROWS, form="module", ratio=0.5)
    assert type(pruned.model) is Mixed
    assert pruned.model.b.in_features == 4 and pruned.model.c.in_features < 4  # x[:, 4:] is what is left


def test_what_is_left_out_by_structure_is_not_said_to_be_fixed():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv1d(5, 6, 1), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.a(self.conv(x[..., None])[..., 0]).view(-1, 8))

    with pytest.raises(InfeasibleError) as error:
        prune.channels(Writes().double(), ROWS, structures=("neurons",), ratio=0.5, form="module")
    assert "a: the model's own forward does not follow" in str(error.value)
    assert "conv: these are channels, not asked for" in str(error.value)


def test_the_model_and_the_analysis_that_were_given_are_not_touched():
    model = Chain(1).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    analysis = prune.analyze(model, ROWS)
    titles = [group.title for group in analysis.groups]
    found = followed(analysis)
    assert found.model is model and [group.title for group in analysis.groups] == titles
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Rolled(nn.Module):
    """Channels of the first layer are moved by one place, which no cut survives; those of the second are not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(self.b(self.a(x).roll(1, 1)).tanh())


@pytest.mark.parametrize("step", [False, True])
def test_a_rule_that_is_wrong_leaves_its_layers_whole_and_the_others_are_cut(monkeypatch, step):
    monkeypatch.setitem(TABLE, "roll", TABLE["relu"])
    model, rows = Rolled().double(), torch.randn(4, 5, dtype=torch.float64)
    if step:
        task = Task(model=model, train=(rows, torch.arange(4) % 3), val=(rows, torch.arange(4) % 3), example=rows)
        result = prune.Channels(ratio=0.5).apply(model, task, Context())
        pruned, notes = result.model, result.notes
    else:
        found = prune.channels(model, rows, ratio=0.5)
        pruned, notes = found.model, found.notes
        reason = dict(row[:2] for row in found.unprunable)["a"]
        assert reason.startswith(
            "the rewritten graph would be wrong, a mistake of paretune: please report the model: "
        )
    assert (pruned.a.out_features, pruned.b.out_features) == (8, 3)
    assert any(
        note.startswith("left whole by a mistake of paretune (please report the model): a: ") for note in notes
    )


def test_where_every_cut_is_wrong_nothing_is_delivered(monkeypatch):
    monkeypatch.setitem(TABLE, "roll", TABLE["relu"])
    model = Rolled().double()
    model.b = nn.Identity()
    model.c = nn.Linear(8, 3).double()
    with pytest.raises(InfeasibleError, match="a: the rewritten graph would be wrong, a mistake of paretune"):
        prune.channels(model, torch.randn(4, 5, dtype=torch.float64), ratio=0.5)


class MaskedInTraining(nn.Module):
    """In training some rows give way to a learned vector, which is in no graph, and of the width that is cut."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.stand_in = nn.Linear(5, 8), nn.Linear(8, 3), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = self.a(x)
        if self.training and bool((x[:, 0] > -100).any()):
            h = torch.where(x[:, :1] > 0, self.stand_in, h)
        return self.b(h)


def test_a_forward_that_follows_in_evaluation_alone_is_not_delivered_as_the_module():
    model = MaskedInTraining()
    pruned = prune.channels(model, torch.randn(2, 5), ratio=0.5)
    assert pruned.cuts.form == "graph"
    assert "in train mode it fails: RuntimeError" in " ".join(pruned.notes)
    pruned.model.train()(torch.randn(4, 5)).sum().backward()
    with pytest.raises(
        InfeasibleError, match="a: the model's own forward does not follow: in train mode it fails"
    ):
        prune.channels(model, torch.randn(2, 5), ratio=0.5, form="module")
