"""Gradual pruning: the ramps by hand, the zeros as training goes on, and a training that is killed and resumed."""

import copy
import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.cuts import replay
from paretune.errors import InputError, RecipeError
from paretune.prune import Gradual
from paretune.prune._sparse.criteria import CRITERIA
from paretune.prune._sparse.gradual import Ramp, choose
from paretune.prune._sparse.ramps import RAMPS, at
from paretune.prune._sparse.watch import Watched, watch
from paretune.recipe import Context, parse_recipe
from paretune.task import Task
from paretune.train import fit

ROWS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long() + (ROWS[:, 1] > 0).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-2}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def task():
    return Task(
        name="rows", model=net, train=(ROWS, LABELS), val=(ROWS, LABELS), batch_size=16
    )  # 6 steps an epoch


@pytest.mark.parametrize(
    ("ramp", "expected"), [("one_shot", [1, 1, 1]), ("linear", [0, 0.5, 1]), ("cubic", [0, 0.875, 1])]
)
def test_ramps_by_hand(ramp, expected):
    assert [at(ramp, step, 10, 20) for step in (10, 15, 20)] == expected
    assert at(ramp, 9, 10, 20) == 0 and at(ramp, 99, 10, 20) == 1


@given(st.sampled_from(list(RAMPS)), st.integers(0, 50), st.integers(1, 50), st.integers(0, 120))
def test_a_ramp_never_falls(ramp, begin, length, step):
    assert 0 <= at(ramp, step, begin, begin + length) <= at(ramp, step + 1, begin, begin + length) <= 1


def test_when_masks_are_chosen_by_hand():
    """100 steps, ramp from 20 to 60, every 15: at 30, 45 and 60, where the ratio is reached, and never after."""
    plan = Ramp(ratio=0.8, ramp="linear", begin=0.2, end=0.6, every=15)
    due = {step: plan.due(step, 100) for step in range(1, 101)}
    assert {step: round(ratio, 9) for step, ratio in due.items() if ratio is not None} == {
        30: 0.2,
        45: 0.5,
        60: 0.8,
    }


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ramp", list(RAMPS))
def test_the_ratio_is_reached_and_what_is_zero_stays_zero(ramp, optimizer):
    seen = []
    model = net()
    whole = copy.deepcopy(model.state_dict())
    context = Context(emit=lambda kind, fields: seen.append(fields) if kind == "epoch" else None)
    pruned = prune.gradual(
        model,
        task(),
        ratio=0.75,
        ramp=ramp,
        every=2,
        end=0.5,
        epochs=4,
        optimizer=optimizer,
        context=context,
        **FIXED,
    )
    weights = list(masks.masked(pruned.model).values())
    assert sum(int((weight == 0).sum()) for weight in weights) == int(0.75 * 144)
    assert len(pruned.fitted.curve) == len(seen) == 4 and pruned.fitted.model is pruned.model
    assert pruned.before["nonzero"] - pruned.after["nonzero"] >= 0.75 * 144 - 16
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    again = replay(net(), pruned.cuts)
    for name, weight in masks.masked(again).items():
        assert torch.equal(weight == 0, pruned.model.get_parameter(name) == 0)


def test_zeros_only_grow_along_the_ramp(monkeypatch):
    from paretune.train import _fit

    counts, gone = [], []
    original = _fit._Run

    def watched(*args, **kwargs):
        run = original(*args, **kwargs)
        step = run.each_step

        def each_step(done, steps):
            step(done, steps)
            zero = torch.cat([run.model[at].weight.flatten() == 0 for at in (0, 3)])
            counts.append(int(zero.sum()))
            gone.append(zero)

        object.__setattr__(run, "each_step", each_step)
        return run

    monkeypatch.setattr(_fit, "_Run", watched)
    prune.gradual(net(), task(), ratio=0.9, every=1, end=1.0, epochs=3, optimizer="sgd", **FIXED)
    assert len(counts) == 18 and counts == sorted(counts)
    assert counts[8] == int(0.9 * 0.875 * 144) and counts[-1] == int(
        0.9 * 144
    )  # half of the way is 7/8 of the ratio
    assert all(bool(after[before].all()) for before, after in itertools.pairwise(gone))


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, criterion):
    how = {"ratio": 0.8, "every": 3, "epochs": 4, "criterion": criterion, **FIXED}
    straight = prune.gradual(net(), task(), **how, context=Context(folder=tmp_path / "a"))

    def stop(kind, fields):
        if kind == "epoch" and fields["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune.gradual(net(), task(), **how, context=Context(folder=tmp_path / "b", emit=stop))
    resumed = prune.gradual(net(), task(), **how, context=Context(folder=tmp_path / "b"))
    state = straight.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())


def test_units_protection_and_biases():
    pruned = prune.gradual(net(), task(), ratio=0.5, unit="filter", protect="3", epochs=2, every=1, **FIXED)
    assert list(masks.masked(pruned.model)) == ["0.weight"]
    rows = (pruned.model[0].weight == 0).all(1)
    assert int(rows.sum()) == 8 and not (pruned.model[0].weight[~rows] == 0).any()


def one_layer(weight, out=None):
    """A layer of one output without a bias, watched by a criterion; the plan's ratio is a half."""
    model = nn.Sequential(nn.Linear(len(weight), 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([weight]))

    def of(criterion):
        (found,) = watch(model, ["0.weight"], CRITERIA[criterion], out or {})
        return found

    return model, of


def stepped(model, watched, gradient, lr):
    """Make a step of plain descent by a gradient given, as the optimizer sees it."""
    model[0].weight.grad = None
    (model[0].weight * torch.tensor([gradient])).sum().backward()
    model[0].weight.data.sub_(lr * model[0].weight.grad)
    watched.settle()


def chosen(watched, criterion, progress=1.0, ratio=0.5):
    choose(Ramp(ratio=ratio, criterion=criterion), ratio, progress, {"0.weight": watched})
    return watched.parameter.detach()[0].tolist()


def test_movement_by_hand():
    """Weights 4, 1: a step with gradients 1, -1 moves the large one to zero: scores -4, 1, and 4 goes, not 1.

    At zero its gradient of -2 gives the score -(4 - .5) * -2 = 7, so 3 in all: above 1 - 1.5 * 1, and it is back.
    """
    model, of = one_layer([4.0, 1.0])
    watched = of("movement")
    stepped(model, watched, [1.0, -1.0], lr=0.5)
    assert watched._part("score").tolist() == [[-4.0, 1.0]]
    assert chosen(watched, "movement") == [0.0, 1.5] and watched.weight.tolist() == [[3.5, 1.5]]
    stepped(model, watched, [-2.0, 1.0], lr=0.5)
    assert watched.parameter.tolist() == [[0.0, 1.0]] and watched.weight.tolist() == [[3.5, 1.0]]
    assert watched._part("score").tolist() == [[3.0, -0.5]]
    assert chosen(watched, "movement") == [3.5, 0.0]


def test_dynamic_surgery_by_hand():
    """Weights 1, 2: 1 goes, learns on unseen to 2.1, stays out while below 1.1 * 2, and is back at 2.3."""
    model, of = one_layer([1.0, 2.0])
    watched = of("dynamic_surgery")
    assert chosen(watched, "dynamic_surgery") == [0.0, 2.0]
    stepped(model, watched, [-11.0, 0.0], lr=0.1)
    assert watched.parameter.tolist() == [[0.0, 2.0]] and watched.weight[0, 0] == pytest.approx(2.1)
    assert chosen(watched, "dynamic_surgery") == [0.0, 2.0]
    stepped(model, watched, [-2.0, 0.0], lr=0.1)
    assert chosen(watched, "dynamic_surgery") == [pytest.approx(2.3), 0.0]
    watched.remove()
    assert list(model.state_dict()) == ["0.weight"] and not model[0].weight._backward_hooks


def test_rigl_by_hand():
    """Of ten weights five stay; at the begin of the ramp 0.3 of these, one, gives way to the largest gradient."""
    model, of = one_layer([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    watched = of("rigl")
    assert chosen(watched, "rigl", progress=1.0) == [0, 0, 0, 0, 0, 6, 7, 8, 9, 10]
    stepped(model, watched, [0.0, -9.0, 5.0, 0.0, 0.0, 1.0, 90.0, 0.0, 0.0, 0.0], lr=0.0)
    assert chosen(watched, "rigl", progress=0.0) == [0, 0, 0, 0, 0, 0, 7, 8, 9, 10]
    assert watched.stays[0].nonzero().flatten().tolist() == [1, 6, 7, 8, 9]  # the second weight grows from zero
    stepped(model, watched, [1.0] * 10, lr=0.5)
    assert watched.parameter[0].tolist() == [0, -0.5, 0, 0, 0, 0, 6.5, 7.5, 8.5, 9.5]


def test_what_was_out_before_never_comes_back():
    out = torch.arange(10)[None] == 9
    model, of = one_layer([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0], out={"0.weight": out})
    watched = of("rigl")
    stepped(model, watched, [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0], lr=0.0)
    assert chosen(watched, "rigl", progress=0.0) == [1, 0, 0, 0, 0, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("first", [False, True])
def test_every_criterion_reaches_its_ratio_and_leaves_a_plain_model(criterion, first):
    """What was masked before stays zero, the new zeros hold in a later training, and replay brings them back."""
    model = prune.weights(net(), ratio=0.5).model if first else net()
    zero = {name: weight == 0 for name, weight in masks.masked(model).items()}
    pruned = prune.gradual(model, task(), ratio=0.75, criterion=criterion, every=2, end=0.5, epochs=4, **FIXED)
    weights = masks.masked(pruned.model)
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == int(0.75 * 144)
    assert list(pruned.model.state_dict()) == list(net().state_dict())
    assert all(bool((weights[name] == 0)[gone].all()) for name, gone in zero.items())
    trained = fit(copy.deepcopy(pruned.model), task(), epochs=1, **FIXED).model
    again = masks.masked(replay(net(), pruned.cuts))
    for name, weight in weights.items():
        assert torch.equal(masks.masked(trained)[name] == 0, weight == 0)
        assert torch.equal(again[name] == 0, weight == 0)


@pytest.mark.parametrize("criterion", ["movement", "dynamic_surgery", "rigl"])
def test_weights_come_back(criterion, monkeypatch):
    seen = []
    original = Watched.choose

    def choose(self, stays):
        before = self.stays.clone()
        original(self, stays)
        seen.append(int((self.stays & ~before).sum()))

    monkeypatch.setattr(Watched, "choose", choose)
    how = {"ratio": 0.6, "ramp": "one_shot", "every": 1, "end": 1.0, "epochs": 6}
    prune.gradual(net(), task(), criterion=criterion, **how, **FIXED | {"lr": 0.05})
    assert sum(seen) > 0


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_frozen_tensor_is_pruned_too(criterion):
    model = net()
    model[0].weight.requires_grad_(False)
    pruned = prune.gradual(model, task(), ratio=0.5, criterion=criterion, every=1, epochs=2, **FIXED)
    assert sum(int((weight == 0).sum()) for weight in masks.masked(pruned.model).values()) == 72


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"ratio": 1.0}, InputError, "ratio=1.0 must be at least 0 and below 1"),
        ({"ramp": "cubik"}, RecipeError, r"ramp='cubik' must be one of .* Did you mean 'cubic'\?"),
        (
            {"criterion": "movment"},
            RecipeError,
            r"criterion='movment' must be one of .* Did you mean 'movement'\?",
        ),
        ({"begin": 0.5, "end": 0.5}, RecipeError, "begin=0.5 and end=0.5 must be parts of the training"),
        ({"end": 1.5}, RecipeError, "must be parts of the training, from 0 to 1"),
        ({"unit": "rows"}, InputError, r"Did you mean 'row'\?"),
        ({"epochs": 0}, RecipeError, "epochs=0 must be at least 1"),
        ({"epoch": 1}, RecipeError, r"'epoch' is neither .* Did you mean 'epochs'\?"),
        ({"every": 0}, InputError, "every=0"),
    ],
)
def test_bad_input_is_told(how, error, message):
    with pytest.raises(error, match=message):
        prune.gradual(net(), task(), **how)


def test_the_step():
    (step,) = parse_recipe({"steps": [{"prune.gradual": {"ratio": 0.8, "ramp": "linear", "epochs": 2}}]}).steps
    assert step == Gradual(ratio=0.8, ramp="linear", epochs=2)
    with pytest.raises(RecipeError, match="ramp='steep' must be one of"):
        parse_recipe({"steps": [{"prune.gradual": {"ramp": "steep"}}]})
    result = Gradual(ratio=0.8, epochs=2, every=2, **FIXED).apply(net(), task(), Context())
    assert json.dumps(result.details) and len(result.details["curve"]) == 2
    assert sum(row["zero"] for row in result.details["tensors"]) == int(0.8 * 144)


def test_a_lottery_ticket_is_the_late_mask_on_the_early_weights():
    early = fit(net(), task(), epochs=1, **FIXED).model
    late = fit(copy.deepcopy(early), task(), epochs=3, **FIXED).model
    pruned = prune.weights(late, ratio=0.5)
    ticket = replay(copy.deepcopy(early), pruned.cuts)
    for name, weight in masks.masked(ticket).items():
        stays = pruned.model.get_parameter(name) != 0
        assert torch.equal(weight, early.get_parameter(name) * stays)
    trained = fit(ticket, task(), epochs=1, **FIXED).model
    assert all(
        torch.equal(weight == 0, pruned.model.get_parameter(name) == 0)
        for name, weight in masks.masked(trained).items()
    )


def test_patience_is_refused_since_the_ramp_must_end():
    with pytest.raises(RecipeError, match="patience=1 could end the training before the ramp"):
        prune.gradual(net(), task(), epochs=4, patience=1, **FIXED)
    with pytest.raises(RecipeError, match="patience=2"):
        Gradual(patience=2)


def test_nothing_is_chosen_after_the_end():
    assert [step for step in range(1, 101) if Ramp(every=20).due(step, 100) is not None] == [1, 20, 40, 60, 70]


def of_filters(criterion):
    """Return two layers watched, with filters of 9 and of 36 weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False))
    chosen = {"0.weight": model[0].weight, "1.weight": model[1].weight}
    return chosen, dict(zip(chosen, watch(model, chosen, CRITERIA[criterion], {}), strict=True))


def test_large_units_do_not_win_by_their_size():
    """All weights of the first layer moved away from zero, all of the second towards it."""
    _, watched = of_filters("movement")
    watched["0.weight"]._part("score").fill_(1.0)
    watched["1.weight"]._part("score").fill_(-1.0)
    watched["1.weight"]._part("score")[0, 0, 0, 0] = -100.0
    choose(Ramp(ratio=0.2, criterion="movement", unit="filter"), 0.2, 1.0, watched)
    stays = {name: tensor.stays.flatten(1).any(1).tolist() for name, tensor in watched.items()}
    assert stays == {"0.weight": [True] * 4, "1.weight": [False, True, True, True]}


def test_rigl_keeps_what_survived_whatever_its_size():
    _, watched = of_filters("rigl")
    with torch.no_grad():
        watched["0.weight"].parameter.mul_(100)  # the small filters are important
    for tensor in watched.values():
        tensor.gradient = torch.full_like(tensor.parameter, 1e-9)
    choose(Ramp(ratio=0.4, criterion="rigl", unit="filter"), 0.4, 0.0, watched)
    assert watched["0.weight"].stays.flatten(1).any(1).tolist() == [True] * 4
