"""Iterative pruning: amounts and teachers by hand, what every round starts from, and a run that is killed."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.cuts import replay
from paretune.errors import RecipeError, TaskError
from paretune.prune import Iterative
from paretune.prune._iterative import iterative as module
from paretune.prune._iterative.amounts import Way, shares
from paretune.prune._iterative.plan import Rounds
from paretune.prune._iterative.teachers import TEACHERS, Mean, teacher_of
from paretune.recipe import Context, parse_recipe
from paretune.task import Task
from paretune.train import fit

ROWS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long() + (ROWS[:, 1] > 0).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-2, "epochs": 1}
RECOVER = {"distill": FIXED}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)
    )


def task(**changed):
    return Task(
        **{"name": "rows", "model": net, "train": (ROWS, LABELS), "val": (ROWS, LABELS), "batch_size": 16}
        | changed
    )


@pytest.fixture(scope="module")
def trained():
    return fit(net(), task(), **FIXED | {"epochs": 5}).model


def iterated(model, **how):
    return prune.iterative(model, task(), **{"recover": RECOVER, "latency": False} | how)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Way("macs", 0.25), [0.5, 0.5]),
        (Way("latency", 0.25, text=True), ["0.5x", "0.5x"]),
        (Way("ratio", 0.75, stays=False), [0.5, 0.5]),
        (Way("ratio", 0.75, cumulative=True, stays=False), [0.5, 0.75]),
        (Way("count", 5), [2, 3]),
        (Way("count", 10, cumulative=True), [5, 10]),
    ],
)
def test_two_equal_cuts_by_hand(way, expected):
    assert way.amounts([0.5, 0.5]) == expected


def test_rounds_and_cuts_shrink_by_hand():
    """Four, two and one cuts, whose rounds have four, two and one sevenths of the way."""
    assert [len(row) for row in shares(3, 4, 0.5)] == [4, 2, 1]
    assert [sum(row) for row in shares(3, 4, 0.5)] == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.floats(0.05, 1),
    st.sampled_from(["macs", "ratio"]),
    st.floats(0.02, 0.98),
)
def test_all_cuts_together_end_where_it_was_asked(rounds, cuts, shrink, name, value):
    parts = [part for row in shares(rounds, cuts, shrink) for part in row]
    assert math.fsum(parts) == pytest.approx(1)
    left = [
        1 - amount if name == "ratio" else amount
        for amount in Way(name, value, stays=name == "macs").amounts(parts)
    ]
    assert math.prod(left) == pytest.approx(1 - value if name == "ratio" else value, rel=1e-6)
    together = Way(name, value, cumulative=True, stays=name == "macs").amounts(parts)
    assert together[-1] == pytest.approx(value) and together == sorted(together, reverse=name == "macs")


def test_teachers_by_hand():
    full, *models = (nn.Linear(1, 1) for _ in range(4))
    rounds = list(zip(models, (0.5, 0.9, 0.7), strict=True))
    for kind, expected in (("full", full), ("first", models[0]), ("last", models[2]), ("best", models[1])):
        assert teacher_of(kind, full, rounds, up=True) is expected
        assert teacher_of(kind, full, [], up=True) is full
    assert teacher_of("best", full, rounds, up=False) is models[0]
    assert teacher_of("best", full, [(model, None) for model in models], up=True) is models[2]
    inputs = torch.ones(2, 1)
    mean = sum(model(inputs) for model in (full, *models)) / 4
    assert torch.allclose(teacher_of("ensemble", full, rounds, up=True)(inputs), mean)
    assert isinstance(teacher_of("ensemble", full, rounds, up=True), Mean)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_rounds_reach_the_target_and_the_model_given_stays(trained, teacher):
    whole = copy.deepcopy(trained.state_dict())
    made = iterated(
        trained, prune={"prune.channels": {"macs": 0.3}}, rounds=2, cuts=2, shrink=0.5, teacher=teacher
    )
    first, *rows = made.rounds
    assert [row["round"] for row in made.rounds] == [0, 1, 2] and made.kept == 2
    assert [len(row["amounts"]) for row in rows] == [2, 1] and [row["teacher"] for row in rows] == [
        "full",
        teacher,
    ]
    assert first["macs"] > rows[0]["macs"] > rows[1]["macs"] and 0.24 < rows[1]["macs"] / first["macs"] <= 0.3
    assert all(row["metric"]["low"] <= row["metric"]["value"] <= row["metric"]["high"] for row in made.rounds)
    assert len(made.curve) == 2 and json.dumps(made.rounds)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in trained.state_dict().items())
    again = replay(net(), made.cuts)
    again.load_state_dict(made.model.state_dict())
    assert torch.equal(again.eval()(ROWS), made.model(ROWS))


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ({"prune": {"prune.weights": {"ratio": 0.75}}}, lambda row: row["nonzero"]),
        ({"prune": {"prune.channels": {"ratio": 0.5}}}, lambda row: row["params"]),
        ({"prune": {"prune.neighbours": {"ratio": 0.5}}}, lambda row: row["params"]),
        ({"prune": {"prune.neighbours": {"similarity": 0.9}}, "amounts": [0.8, 0.5]}, lambda row: row["params"]),
        ({"prune": {"prune.gradual": {"ratio": 0.75, "every": 2} | FIXED}}, lambda row: row["nonzero"]),
    ],
)
def test_every_way_to_prune_goes_in_rounds(trained, how, check):
    made = iterated(trained, rounds=2, **how)
    counts = [check(row) for row in made.rounds]
    assert counts[0] > counts[1] > counts[2]
    if "prune.weights" in how["prune"]:
        weights = masks.masked(made.model).values()
        assert sum(int((weight == 0).sum()) for weight in weights) == int(0.75 * (6 * 32 + 32 * 24 + 24 * 3))


def test_without_a_teacher_and_with_the_weights_rewound(trained, monkeypatch):
    """Before each recovery a kept weight is what it was in the model given."""
    seen = []
    original = module.recalibrate_batch_norm
    monkeypatch.setattr(
        module,
        "recalibrate_batch_norm",
        lambda model, *a, **k: seen.append(copy.deepcopy(model)) or original(model, *a, **k),
    )
    made = iterated(
        trained, prune={"prune.weights": {"ratio": 0.5}}, recover={"train": FIXED}, rounds=2, rewind_weights=True
    )
    for model, zeros in zip(seen, (0.29, 0.5), strict=True):
        weight, given_weight = model[3].weight, trained[3].weight
        stays = weight != 0
        assert torch.equal(weight[stays], given_weight[stays])
        assert float(
            (torch.cat([w.flatten() for w in masks.masked(model).values()]) == 0).float().mean()
        ) == pytest.approx(zeros, abs=0.01)
    assert made.kept == 2


def test_it_stops_where_too_much_is_lost_and_keeps_what_held(trained):
    losing = {"prune": {"prune.weights": {"ratio": 0.99}}, "recover": {"train": FIXED | {"lr": 1e-6}}}
    made = iterated(trained, rounds=4, max_drop=5.0, **losing)
    assert len(made.rounds) < 5 and made.kept == len(made.rounds) - 2
    assert f"stopped after round {made.kept + 1} of 4" in made.notes[-1 if made.kept else -2]
    none = iterated(trained, rounds=1, max_drop=0.5, **losing)
    assert none.kept == 0 and none.cuts == () and torch.equal(none.model(ROWS), trained.eval()(ROWS))
    assert "no round held max_drop" in none.notes[-1]


def test_the_best_round_may_be_kept(trained):
    made = iterated(trained, prune={"prune.channels": {"macs": 0.1}}, rounds=3, keep="best")
    values = [row["metric"]["value"] for row in made.rounds[1:]]
    assert values[made.kept - 1] == max(values)


def test_one_shot_beside_and_latency(trained):
    made = iterated(trained, prune={"prune.channels": {"macs": 0.5}}, rounds=2, one_shot=True, latency=True)
    assert [row["round"] for row in made.rounds] == [0, 1, 2, "one-shot"] and made.kept == 2
    assert made.rounds[0]["latency"]["ratio"] == 1 and all(row["latency"]["median_ms"] > 0 for row in made.rounds)
    assert made.rounds[3]["macs"] / made.rounds[0]["macs"] <= 0.5
    plan = Rounds(prune={"prune.channels": {"macs": 0.5}}, recover=RECOVER, rounds=2, one_shot=True).at_once()
    assert plan.recovery().epochs == 2 and len(plan.steps()) == 1


@pytest.mark.parametrize("cut", ["prune.channels", "prune.weights"])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_killed_run_goes_on_in_its_round(trained, tmp_path, cut, when):
    how = {"prune": {cut: {"ratio": 0.6}}, "recover": {"distill": FIXED | {"epochs": 2}}, "rounds": 2}
    straight = iterated(trained, **how)
    count = 0

    def stop(kind, fields):
        nonlocal count
        count += kind == "epoch"
        if kind == "epoch" and count == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iterated(trained, **how, context=Context(folder=tmp_path, emit=stop))
    seen = []
    emit = lambda kind, fields: seen.append(fields["epoch"]) if kind == "epoch" else None  # noqa: E731
    resumed = iterated(trained, **how, context=Context(folder=tmp_path, emit=emit))
    assert len(seen) == 4 - when  # no epoch is done twice
    state = straight.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())
    told = [{k: v for k, v in row.items() if k != "seconds"} for row in straight.rounds]
    assert told == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.rounds]
    assert len(resumed.curve) == len(straight.curve) == 4


def test_a_damaged_round_is_done_again(trained, tmp_path):
    how = {"prune": {"prune.weights": {"ratio": 0.6}}, "rounds": 2}
    straight = iterated(trained, **how, context=Context(folder=tmp_path))
    (second,) = tmp_path.glob("round-02-*.safetensors")
    second.write_bytes(second.read_bytes()[:-8])
    warned = []
    emit = lambda kind, fields: warned.append(fields["text"]) if kind == "warning" else None  # noqa: E731
    again = iterated(trained, **how, context=Context(folder=tmp_path, emit=emit))
    assert len(warned) == 1 and "this round is done again" in warned[0]
    assert torch.equal(again.model(ROWS), straight.model(ROWS))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"cuts": 0}, "cuts=0 must be at least 1"),
        ({"shrink": 0.0}, "shrink=0.0 must be above 0 and at most 1"),
        ({"shrink": 1.5}, "shrink=1.5 must be above 0 and at most 1"),
        ({"max_drop": -1.0}, "max_drop=-1.0 must be at least 0"),
        ({"amounts": []}, "amounts is empty"),
        ({"amounts": [0.5, 1.5]}, "macs=1.5"),
        ({"teacher": "frist"}, r"teacher='frist' must be one of .* Did you mean 'first'\?"),
        ({"keep": "smalest"}, r"Did you mean 'smallest'\?"),
        ({"prune": {"prune.chanels": {"macs": 0.5}}}, r"no step 'prune.chanels'. Did you mean 'prune.channels'\?"),
        ({"prune": {"prune.channels": {"mcs": 0.5}}}, r"prune.iterative: prune: no field 'mcs'"),
        ({"prune": {"prune.channels": {"macs": "20M"}}}, "macs='20M' cannot be split over rounds"),
        ({"prune": {"prune.channels": {"threshold": 0.5}}}, "sets none of macs"),
        ({"recover": {"distil": {}}}, r"prune.iterative: recover: no step 'distil'"),
        ({"recover": {"quantize.static": {}}}, "recover: quantize.static does not train"),
        ({"recover": {"prune.channels": {}}}, "recover: prune.channels does not train"),
        ({"prune": {"prune.iterative": {}}}, "prune: prune.iterative is no cut"),
        ({"prune": {"train": {"epochs": 1}}}, "prune: train is no cut"),
        ({"rounds": 5, "amounts": [0.7, 0.6]}, "rounds=5, and 2 amounts"),
        ({"recover": {"distill": {"epochs": 0}}}, "epochs=0 must be at least 1"),
        ({"one_shot": True, "amounts": [0.5]}, "one_shot compares at equal epochs .* leave out amounts"),
        ({"one_shot": True, "recover": {"prune.weights": {}}}, "prune.weights does not train"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(RecipeError, match=message):
        prune.iterative(net(), task(), **how)


@pytest.mark.parametrize("how", [{"max_drop": 1.0}, {"keep": "best"}])
def test_a_rule_on_validation_data_needs_them(how):
    with pytest.raises(TaskError, match="needs validation data, and the task has none"):
        prune.iterative(net(), task(val=None), **how)


def test_without_validation_data_the_rounds_have_no_metric():
    made = prune.iterative(
        net(), task(val=None), prune={"prune.weights": {"ratio": 0.5}}, recover=RECOVER, rounds=2, latency=False
    )
    assert [row["metric"] for row in made.rounds] == [None] * 3 and made.kept == 2


def test_the_step(trained):
    fields = {"prune": {"prune.weights": {"ratio": 0.8}}, "recover": {"distill": dict(FIXED)}, "rounds": 2}
    (step,) = parse_recipe({"steps": [{"prune.iterative": fields}]}).steps
    assert step == Iterative(**fields)
    with pytest.raises(RecipeError, match="rounds=0 must be at least 1"):
        parse_recipe({"steps": [{"prune.iterative": {"rounds": 0}}]})
    events = []
    result = step.apply(copy.deepcopy(trained), task(), Context(emit=lambda kind, fields: events.append(kind)))
    assert json.dumps(result.details) and len(result.details["rounds"]) == 3 and len(result.cuts) == 2
    assert events.count("round") == 3 and events.count("pruned") >= 1
    assert Iterative(prune={"prune.channels": {"latency": "0.5x"}}).uses_target and not step.uses_target


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.relu(self.line(x))


def scaled():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_no_round_rounds_its_share_away(rounds):
    """What a ratio leaves is the same in one round and in many: blocks, narrow layers, images."""
    how = {"recover": {"train": FIXED}, "rounds": rounds, "latency": False}
    stack = nn.Sequential(*[Residual() for _ in range(8)], nn.Linear(6, 3))
    made = prune.iterative(stack, task(model=lambda: stack), prune={"prune.blocks": {"ratio": 0.25}}, **how)
    assert made.rounds[-1]["macs"] == 6 * 36 + 18
    narrow = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    for cut in ({"prune.neighbours": {"ratio": 0.5}}, {"prune.channels": {"ratio": 0.5, "scope": "local"}}):
        made = prune.iterative(narrow, task(model=lambda: narrow), prune=cut, **how)
        assert [made.model[0].out_features, made.model[2].out_features] == [3, 3]
    images = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = (images, LABELS[:32])
    of_images = Task(name="images", model=scaled, train=seen, val=seen, batch_size=16)
    made = prune.iterative(scaled(), of_images, prune={"prune.resolution": {"ratio": 0.75}}, **how)
    assert made.cuts[-1].resolution == (12, 12)


def test_layers_that_a_cut_made_keep_their_weights_where_the_others_are_rewound(trained):
    """A merged layer has no earlier weights: rewound it would be zeros."""
    how = {"recover": {"train": FIXED | {"lr": 1e-9}}, "rounds": 1, "prune": {"prune.activations": {"count": 1}}}
    plain, rewound = (iterated(trained, rewind_weights=rewind, **how) for rewind in (False, True))
    assert rewound.rounds[1]["before"] == plain.rounds[1]["before"] > 0.7


def test_the_model_given_keeps_its_mode_and_another_teacher_is_another_run(trained, tmp_path):
    model = copy.deepcopy(trained).train()
    how = {"prune": {"prune.channels": {"macs": 0.6}}, "rounds": 1, "recover": RECOVER}
    made = [
        iterated(model, context=Context(folder=tmp_path, teacher=teacher), **how) for teacher in (trained, net())
    ]
    assert model.training and all(module.training for module in model.modules())
    first, second = (result.model[-1].weight for result in made)
    assert not torch.equal(first, second)
