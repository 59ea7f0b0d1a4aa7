"""Ranges of activations: clips and thresholds by hand, measured zeros, and what is refused."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.checkpoint import State
from paretune.cuts import Cuts
from paretune.data import call
from paretune.errors import InfeasibleError, InputError, RecipeError, RunError
from paretune.export import certify, export_onnx, save, strip
from paretune.prune import ActivationRange, Activations, Channels
from paretune.quantize import Static
from paretune.recipe import Context, parse_recipe
from paretune.train import Train

ROWS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def alone():
    return nn.Sequential(nn.ReLU())


def test_a_small_tensor_by_hand():
    data = torch.tensor([[-1.0, 0.2, 0.5, 1.0, 3.0]])
    pruned = prune.activation_range(alone(), data, data=data, low=0.0, high=2.0, threshold=0.5)
    assert pruned.model(data).tolist() == [[0.0, 0.0, 0.0, 1.0, 2.0]]
    (row,) = pruned.kept
    assert (row.activation, row.low, row.high, row.threshold) == ("0", 0.0, 2.0, 0.5)
    assert (row.zeros_before, row.zeros_after) == (1 / 5, 3 / 5)
    assert "0: 20.0 % of its values were zero, and now 60.0 %" in pruned.notes
    # the quantiles 1/4 and 3/4 of 0, 0.2, 0.5, 1, 3 are 0.2 and 1
    clipped = prune.activation_range(alone(), data, data=data, quantiles=(0.25, 0.75))
    torch.testing.assert_close(clipped.model(data), torch.tensor([[0.2, 0.2, 0.5, 1.0, 1.0]]))
    above = prune.activation_range(alone(), data, data=data, high=0.5)
    assert torch.equal(above.model(data), torch.tensor([[0.0, 0.2, 0.5, 0.5, 0.5]])) and above.notes == ()
    signed = prune.activation_range(nn.Sequential(nn.Identity(), nn.Tanh()), data, data=data, threshold=0.5)
    assert torch.equal(signed.model(data), data.tanh() * (data.tanh().abs() > 0.5))


@given(st.floats(-2, 0), st.floats(0.01, 2), st.floats(0.001, 3), st.integers(0, 99))
def test_what_is_kept_is_in_the_range_and_the_rest_is_not_touched(low, high, threshold, seed):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    model = nn.Sequential(nn.LeakyReLU())
    if max(-low, high) <= threshold:
        with pytest.raises(InputError, match="nothing is left of it"):
            prune.activation_range(model, x, data=x, low=low, high=high, threshold=threshold)
        return
    pruned = prune.activation_range(model, x, data=x, low=low, high=high, threshold=threshold)
    was, now = model(x), pruned.model(x)
    inside = (was >= low) & (was <= high) & (was.abs() > threshold)
    assert torch.equal(now[inside], was[inside])
    assert bool(((now == 0) | ((now.abs() > threshold) & (now >= low) & (now <= high))).all())
    assert pruned.kept[0].zeros_after == float((now == 0).double().mean())


def test_a_model_is_measured_and_left_as_it_was():
    model = mlp()
    before = copy.deepcopy(model)
    pruned = prune.activation_range(model, ROWS[:1], data=ROWS, quantiles=(0.0, 0.9), threshold=0.1)
    hidden = model[1](model[0](ROWS))
    assert [row.activation for row in pruned.kept] == ["1", "3"]
    high = float(torch.quantile(hidden.detach().flatten(), 0.9))
    assert pruned.kept[0].high == pytest.approx(high, rel=1e-5) and pruned.kept[0].low == 0
    ranged = hidden.clamp(0, pruned.kept[0].high)
    ranged = ranged * (ranged.abs() > 0.1)
    assert pruned.kept[0].zeros_before == pytest.approx(float((hidden == 0).float().mean()))
    assert pruned.kept[0].zeros_after == pytest.approx(float((ranged == 0).float().mean()))
    assert pruned.before == pruned.after and any("do not make a runtime" in note for note in pruned.notes)
    assert str(model) == str(before) and torch.equal(model(ROWS), before(ROWS))
    protected = prune.activation_range(model, ROWS[:1], data=ROWS, high=0.5, protect="3")
    assert [row.activation for row in protected.kept] == ["1"] and type(protected.model[3]) is nn.Tanh
    few = prune.activation_range(model, ROWS[:1], data=ROWS, quantiles=(0.0, 0.9), samples=8, seed=1)
    again = prune.activation_range(model, ROWS[:1], data=ROWS, quantiles=(0.0, 0.9), samples=8, seed=1)
    assert few.kept == again.kept != pruned.kept


def test_replay_as_json_and_a_range_on_a_range():
    pruned = prune.activation_range(mlp(), ROWS[:1], data=ROWS, quantiles=(0.0, 0.95), threshold=0.05)
    fresh = prune.replay(mlp(), Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json()))))
    assert torch.equal(fresh(ROWS), pruned.model(ROWS))
    twice = prune.activation_range(pruned.model, ROWS[:1], data=ROWS, high=0.2)
    assert float(twice.model[:2](ROWS).max()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give low, high, quantiles or threshold; got none"),
        ({"low": 1.0, "high": 1.0}, r"low=1.0 must be below high=1.0: this range of activations is empty"),
        ({"low": 2.0, "high": 1.0}, r"this range of activations is empty"),
        ({"quantiles": (0.9, 0.1)}, r"quantiles=\(0.9, 0.1\) must rise.*range of activations is empty"),
        ({"quantiles": (0.5, 0.5)}, "must rise"),
        ({"quantiles": (0.5, 1.5)}, "must rise"),
        ({"quantiles": (float("nan"), 0.5)}, "must rise"),
        ({"quantiles": 0.5}, "must be two numbers from 0 to 1"),
        ({"quantiles": (0.1, 0.9), "low": 0.0}, "give low and high, or quantiles"),
        ({"low": -1.0, "high": 1.0, "threshold": 1.0}, r"threshold=1 sets all of \[-1, 1\] to zero"),
        ({"threshold": 0.0}, "threshold=0.0 must be above 0"),
        ({"threshold": "1"}, "threshold='1' must be a finite number"),
        ({"high": float("inf")}, "high=inf must be a finite number"),
        ({"high": 1.0, "protect": "act"}, "protect: 'act' matches no activation"),
        ({"high": 1.0, "samples": 0}, "samples=0"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message):
        prune.activation_range(mlp(), ROWS[:1], data=ROWS, **how)


def test_a_range_that_is_measured_empty_is_refused():
    dead = -ROWS.abs()
    with pytest.raises(
        InfeasibleError, match=r"quantiles \(0.0, 0.9\) of 0 are both 0: its range is empty.*protect="
    ):
        prune.activation_range(alone(), dead, data=dead, quantiles=(0.0, 0.9))
    with pytest.raises(InfeasibleError, match=r"threshold=9 sets all of \[0, .*\], the range of 0, to zero"):
        prune.activation_range(alone(), ROWS, data=ROWS, quantiles=(0.0, 0.9), threshold=9.0)
    with pytest.raises(RunError, match="look for NaN in the data"):
        prune.activation_range(alone(), ROWS, data=ROWS * float("nan"), quantiles=(0.0, 0.9))
    emptied = prune.activation_range(alone(), ROWS, data=ROWS, threshold=99.0)
    assert any("nothing but zeros is left of 0" in note for note in emptied.notes)


def test_learned_bounds_by_hand():
    """1, 3, 5 and a 0 from the ReLU in [0.5, 2] are 1, 2, 2, 0.5; the gradient of the sum of y^2 is 2 y."""
    data = torch.tensor([[-1.0, 1.0, 3.0, 5.0]])
    pruned = prune.activation_range(alone(), data, data=data, low=0.5, high=2.0, learn=True)
    fixed = prune.activation_range(alone(), data, data=data, low=0.5, high=2.0)
    x = data.clone().requires_grad_()
    y = pruned.model(x)
    assert torch.equal(y, fixed.model(data)) and pruned.after["params"] == 2
    y.square().sum().backward()
    clip = pruned.model[0][1]
    assert (clip.low.grad.item(), clip.high.grad.item()) == (2 * 0.5, 2 * 2 + 2 * 2)
    assert x.grad.tolist() == [[0.0, 2.0, 0.0, 0.0]]
    fresh = prune.replay(alone(), Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json()))))
    assert torch.equal(fresh(data), y) and [name for name, _ in fresh.named_parameters()] == [
        "0.1.low",
        "0.1.high",
    ]
    with pytest.raises(InputError, match="learn=True needs bounds to begin with"):
        prune.activation_range(alone(), data, data=data, threshold=0.5, learn=True)


def test_training_learns_the_bounds(trained_task):
    step = ActivationRange(quantiles=(0.0, 0.9), learn=True)
    model = step.apply(trained_task.build(), trained_task, Context()).model
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("high")}
    how = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "epochs": 1, "lr": 1e-2}
    after = dict(Train(**how).apply(model, trained_task, Context()).model.named_parameters())
    assert len(before) == 4 and all(not torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("learn", [False, True])
def test_composes_and_is_exported(learn, trained_task, tmp_path):
    context, model, cuts = Context(), trained_task.build(), ()
    steps = [
        ActivationRange(quantiles=(0.0, 0.99), threshold=0.05, learn=learn),
        Channels(ratio=0.3, recalibrate=64),
        Activations(samples=64, recalibrate=64),
    ]
    for step in steps:
        result = step.apply(model, trained_task, context)
        model, cuts = result.model, (*cuts, *result.cuts)
        assert json.dumps(result.details)
    State(model.state_dict(), cuts).save(tmp_path / "m.safetensors")
    loaded = State.load(tmp_path / "m.safetensors").onto(trained_task.build()).eval()
    inputs = trained_task.data("val").first(3)[0]
    with torch.no_grad():
        assert torch.equal(call(loaded, inputs), call(model.eval(), inputs))
    exported = export_onnx(loaded, trained_task.inputs())
    kinds = [node.op_type for node in exported.graph.graph.node]
    assert "Clip" in kinds and "Shrink" in kinds and "Where" not in kinds, kinds
    save(strip(exported.graph), tmp_path / "float.onnx")
    assert certify(tmp_path / "float.onnx", loaded, trained_task, kind="float", exported=exported, split=None).ok
    save(strip(Static(calibration=32).apply_graph(exported.graph, trained_task, context)), tmp_path / "int8.onnx")
    float_path = tmp_path / "float.onnx"
    assert certify(tmp_path / "int8.onnx", loaded, trained_task, kind="int8", float_path=float_path, split=None).ok


def test_the_step():
    (step,) = parse_recipe({"steps": [{"prune.activation_range": {"quantiles": [0.0, 0.99]}}]}).steps
    assert step == ActivationRange(quantiles=(0.0, 0.99)) and ActivationRange().quantiles == (0.0, 0.999)
    with pytest.raises(RecipeError, match="this range of activations is empty"):
        parse_recipe({"steps": [{"prune.activation_range": {"low": 1.0, "high": 0.0}}]})
