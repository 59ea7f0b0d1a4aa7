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
from paretune.prune._sparse.gradual import Ramp
from paretune.prune._sparse.ramps import RAMPS, at
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

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
    """100 steps, ramp from 20 to 60, every 15: at 30, 45, 60 and once more at 75, where the ratio is reached."""
    plan = Ramp(ratio=0.8, ramp="linear", begin=0.2, end=0.6, every=15)
    due = {step: plan.due(step, 100) for step in range(1, 101)}
    assert {step: round(ratio, 9) for step, ratio in due.items() if ratio is not None} == {
        30: 0.2,
        45: 0.5,
        60: 0.8,
        75: 0.8,
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

        def each_step(done, steps, stays):
            step(done, steps, stays)
            zero = torch.cat([run.model.get_parameter(name).flatten() == 0 for name in stays])
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


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    how = {"ratio": 0.8, "every": 3, "epochs": 4, **FIXED}
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


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"ratio": 1.0}, InputError, "ratio=1.0 must be at least 0 and below 1"),
        ({"ramp": "cubik"}, RecipeError, r"ramp='cubik' must be one of .* Did you mean 'cubic'\?"),
        ({"begin": 0.5, "end": 0.5}, RecipeError, "begin=0.5 and end=0.5 must be parts of the training"),
        ({"end": 1.5}, RecipeError, "must be parts of the training, from 0 to 1"),
        ({"unit": "rows"}, InputError, r"Did you mean 'row'\?"),
        ({"epochs": 0}, RecipeError, "epochs=0 must be at least 1"),
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
