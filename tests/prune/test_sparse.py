"""Training for sparsity: the penalty and its proximal step by hand, the path, and the zeros that follow."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.cuts import replay
from paretune.errors import InputError, RecipeError, TaskError
from paretune.prune import Sparse
from paretune.prune._regular.penalty import penalty, soft_threshold
from paretune.recipe import Context, parse_recipe
from paretune.task import Task
from paretune.train import fit

ROWS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long() + (ROWS[:, 1] > 0).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-2, "weight_decay": 0.0}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def task(**changed):
    fields = {"name": "rows", "model": net, "train": (ROWS, LABELS), "val": (ROWS, LABELS), "batch_size": 16}
    return Task(**fields | changed)


PROXIMAL = {"proximal": True, "optimizer": "sgd", **FIXED, "lr": 0.05}


def line(*weights):
    """A layer of one output without a bias."""
    model = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([weights]))
    return model


def flat(value=0.0):
    """A task of one batch whose loss has the same gradient, `value`, for each of two weights."""
    return Task(
        name="flat", model=lambda: line(1.0, 1.0), train=(torch.ones(4, 2), torch.zeros(4)), batch_size=4,
        loss=lambda output, target: value * output.sum(), metric="mse",
    )  # fmt: skip


@pytest.mark.parametrize(("norm", "value", "gradient"), [("l1", 7.5, [1, -1, 0]), ("l2", 25.25, [6, -8, 1])])
def test_the_penalty_by_hand(norm, value, gradient):
    weights = [torch.tensor([3.0, -4.0], requires_grad=True), torch.tensor([[0.5]], requires_grad=True)]
    found = penalty(weights, norm)
    found.backward()
    assert found.item() == value
    assert weights[0].grad.tolist() == gradient[:2] and weights[1].grad.item() == (1 if norm == "l1" else 1.0)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.floats(0, 3, width=32))
def test_soft_thresholding_is_the_proximal_step(values, by):
    """sign(w) max(|w| - t, 0), entry by entry: the minimum over v of (v - w)^2 / 2 + t |v|."""
    weight = torch.tensor(values)
    moved = weight.clone()
    soft_threshold([moved], by)
    assert torch.allclose(moved, weight.sign() * (weight.abs() - by).clamp(min=0), atol=1e-6)
    assert bool((moved[weight.abs() <= by] == 0).all())

    def cost(v):
        return (v - weight).square() / 2 + by * v.abs()

    for other in (moved + 0.01, moved - 0.01, weight, torch.zeros_like(weight)):
        assert bool((cost(moved) <= cost(other) + 1e-5).all())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"norm": "l1"}, [0.9, -0.9]),  # one step of 0.1 along the sign
        ({"norm": "l2"}, [0.8, -0.8]),  # along 2 w
        ({"norm": "l1", "proximal": True}, [0.9, -0.9]),
        ({"norm": "l1", "proximal": True, "strength": 10.5}, [0.0, 0.0]),
    ],
)
def test_a_step_by_hand(how, expected):
    """Weights 1 and -1, no loss, plain descent with lr 0.1 and a penalty of strength 1."""
    training = FIXED | {"lr": 0.1, "optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "epochs": 1}
    made = prune.sparse(line(1.0, -1.0), flat(), **{"strength": 1.0} | how, **training)
    assert made.model[0].weight[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_proximal_step_comes_after_the_step_of_the_loss():
    """Weight 1, gradient 4, lr 0.1: 0.6 after the step, 0.5 after the threshold of 0.1; it does not touch the
    loss."""
    training = FIXED | {"lr": 0.1, "optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "epochs": 1}
    made = prune.sparse(line(1.0, 0.3), flat(1.0), strength=1.0, proximal=True, **training)
    assert made.model[0].weight[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert list(made.fitted.curve[0]["terms"]) == list(
        fit(line(1.0, 1.0), flat(1.0), **training).curve[0]["terms"]
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stronger_penalty_leaves_less(optimizer):
    sums = []
    for strength in (0.0, 1e-3, 1e-2):
        made = prune.sparse(net(), task(), strength=strength, epochs=8, optimizer=optimizer, **FIXED)
        sums.append(penalty([made.model[0].weight, made.model[3].weight], "l1").item())
        assert ("l1" in made.fitted.curve[-1]["terms"]) == (strength > 0)
    assert sums[0] > sums[1] > sums[2]


def test_proximal_zeros_are_masks_that_hold():
    model = net()
    whole = copy.deepcopy(model.state_dict())
    made = prune.sparse(model, task(), strength=0.2, epochs=8, **PROXIMAL)
    zero = {name: weight == 0 for name, weight in masks.masked(made.model).items()}
    assert list(zero) == ["0.weight", "3.weight"] and sum(int(where.sum()) for where in zero.values()) > 20
    assert made.before["nonzero"] > made.after["nonzero"] > 0
    trained = fit(copy.deepcopy(made.model), task(), epochs=1, **FIXED).model
    again = replay(net(), made.cuts)
    for name, where in zero.items():
        assert bool((trained.get_parameter(name)[where] == 0).all())
        assert torch.equal(again.get_parameter(name) == 0, where)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())


def test_chosen_parameters_alone_are_penalised():
    made = prune.sparse(net(), task(), strength=1.0, names="*.bias", epochs=4, **PROXIMAL)
    assert set(masks.masked(made.model)) == {"0.bias", "1.bias", "3.bias"}
    assert not made.model[0].bias.any() and made.model[0].weight.all()
    everything = prune.sparse(net(), task(), strength=1.0, names="*", protect="3", epochs=4, **PROXIMAL)
    assert (everything.model[0].weight == 0).float().mean() > 0.5 and everything.model[3].weight.all()


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    how = {"strength": 0.1, "epochs": 4, **PROXIMAL}
    straight = prune.sparse(net(), task(), **how)

    def stop(kind, fields):
        if kind == "epoch" and fields["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune.sparse(net(), task(), **how, context=Context(folder=tmp_path, emit=stop))
    resumed = prune.sparse(net(), task(), **how, context=Context(folder=tmp_path))
    state = straight.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())


def test_the_path_starts_without_a_penalty_and_warm():
    path = prune.sparse_path(net(), task(), [0.5, 0.1], epochs=3, **PROXIMAL)
    assert [point.strength for point in path.points] == [0.0, 0.1, 0.5]
    plain = prune.sparse(net(), task(), strength=0.0, epochs=3, **PROXIMAL)
    assert torch.equal(path.points[0].trained.model(ROWS), plain.model(ROWS)) and path.points[0].drop == 0
    warm = prune.sparse(plain.model, task(), strength=0.1, epochs=3, **PROXIMAL)
    assert torch.equal(path.points[1].trained.model(ROWS), warm.model(ROWS))
    counts = [point.trained.after["nonzero"] for point in path.points]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    values = [point.evaluation.value for point in path.points]
    assert path.best.evaluation.value == max(values)
    assert path.within(1000.0) is path.points[-1] and path.within(0.0).drop <= 0
    assert json.dumps([point.to_json() for point in path.points])


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"strength": -1.0}, InputError, "strength=-1.0 must be a number of at least 0"),
        ({"strength": "much"}, InputError, "strength='much' must be a number"),
        ({"norm": "l3"}, RecipeError, r"norm='l3' must be one of l1, l2"),
        ({"norm": "l2", "proximal": True}, RecipeError, "proximal makes zeros under the norm l1 only"),
        ({"names": "layer9.weight"}, InputError, "layer9.weight"),
        ({"epochs": 0}, RecipeError, "epochs=0 must be at least 1"),
    ],
)
def test_bad_input_is_told(how, error, message):
    with pytest.raises(error, match=message):
        prune.sparse(net(), task(), **how)


@pytest.mark.parametrize("lambdas", [[], [0, -1.0], ["x"], [float("nan")]])
def test_a_path_of_nonsense_is_refused(lambdas):
    with pytest.raises(InputError, match="must be numbers of at least 0"):
        prune.sparse_path(net(), task(), lambdas, epochs=1)


def test_a_path_needs_validation_data():
    with pytest.raises(TaskError, match="compares on validation data, and the task has none"):
        prune.sparse_path(net(), task(val=None), [0.1], epochs=1)


def test_the_step():
    (step,) = parse_recipe({"steps": [{"prune.sparse": {"strength": 0.02, "proximal": True, "epochs": 4}}]}).steps
    assert step == Sparse(strength=0.02, proximal=True, epochs=4)
    with pytest.raises(RecipeError, match="strength=-1 must be at least 0"):
        parse_recipe({"steps": [{"prune.sparse": {"strength": -1}}]})
    result = Sparse(strength=0.4, epochs=4, **PROXIMAL).apply(net(), task(), Context())
    assert json.dumps(result.details) and len(result.details["curve"]) == 4
    assert sum(row["zero"] for row in result.details["tensors"]) > 0


def test_frozen_weights_are_not_shrunk():
    model = net()
    model[0].requires_grad_(False)
    made = prune.sparse(model, task(), strength=1.0, proximal=True, **FIXED | {"epochs": 3})
    assert torch.equal(made.model[0].weight, model[0].weight)
