"""Weights set to zero by their norm: by hand, and what must hold of any tensor."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.cuts import Cuts, replay
from paretune.errors import InfeasibleError, InputError, RecipeError, RunError
from paretune.prune import Weights
from paretune.prune._sparse.units import as_units, norms, of_units
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

UNITS = ("weight", "row", "kernel", "filter", (2, 3))


def linear(rows, bias=False):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias)
    layer.weight.data = torch.tensor(rows)
    return layer


SMALL = [[0.25, -3.0, 2.0], [-0.5, 0.5, 0.375]]


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        ({"threshold": 0.5}, [[0, 1, 1], [0, 0, 0]]),  # at the threshold goes
        ({"threshold": 0.45}, [[0, 1, 1], [1, 1, 0]]),
        ({"threshold": 0}, [[1, 1, 1], [1, 1, 1]]),
        ({"ratio": 0.5}, [[0, 1, 1], [0, 1, 0]]),  # of equal ones the first goes
        ({"ratio": 0.49}, [[0, 1, 1], [1, 1, 0]]),
        ({"count": 4}, [[0, 1, 1], [0, 0, 0]]),
        ({"count": 0}, [[1, 1, 1], [1, 1, 1]]),
        ({"threshold": 1.375, "unit": "row"}, [[1, 1, 1], [0, 0, 0]]),  # sums 5.25 and 1.375
        ({"threshold": 0.9, "unit": "filter", "norm": "l2"}, [[1, 1, 1], [0, 0, 0]]),  # the root of 0.64 is 0.80
        ({"ratio": 0.5, "unit": (1, 2)}, [[1, 1, 1], [0, 0, 0]]),  # 3.25, 2 | 1, 0.375: the ends are single
        ({"n_m": (1, 3)}, [[0, 1, 0], [1, 0, 0]]),
    ],
)
def test_by_hand(how, stays):
    pruned = prune.weights(linear(SMALL), **how)
    assert (pruned.model.weight != 0).int().tolist() == stays
    kept = pruned.model.weight[pruned.model.weight != 0]
    assert torch.equal(kept, torch.tensor(SMALL)[torch.tensor(stays).bool()])
    assert pruned.before == {"params": 6, "nonzero": 6}
    assert pruned.after == {"params": 6, "nonzero": int(np.sum(stays))}


def test_units_of_a_convolution_by_hand():
    """(1, 2, 2, 2) with weights 1 to 8: rows 1+2, 3+4, 5+6, 7+8; kernels 10 and 26; one filter, 36."""
    weight = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    assert norms(weight, "row").tolist() == [3, 7, 11, 15]
    assert norms(weight, "kernel").tolist() == [10, 26]
    assert norms(weight, "filter").tolist() == [36]
    assert norms(weight, (1, 3)).tolist() == [6, 15, 15]
    assert norms(weight, "kernel", "l2").tolist() == pytest.approx([30**0.5, 174**0.5])


def test_scopes_by_hand():
    """Layers of 1 2 3 4 and 5 6 7 8: half of all is the first layer, half of each its lower two."""
    model = nn.Sequential(linear([[1.0, 2.0], [3.0, 4.0]]), linear([[5.0, 6.0], [7.0, 8.0]]))
    whole = prune.weights(model, ratio=0.5)
    assert [int(layer.weight.count_nonzero()) for layer in whole.model] == [0, 4]
    assert any("nothing is left of 0.weight" in note for note in whole.notes)
    each = prune.weights(model, ratio=0.5, scope="layer")
    assert [layer.weight.tolist() for layer in each.model] == [[[0, 0], [3, 4]], [[0, 0], [7, 8]]]
    with_bias = nn.Sequential(linear([[1.0, 2.0], [3.0, 4.0]], bias=True))
    with_bias[0].bias.data = torch.tensor([0.5, 9.0])
    names = ["*.weight", "*.bias"]
    assert prune.weights(with_bias, ratio=0.5, names=names, scope="layer").model[0].bias.tolist() == [0, 9]
    tensors = prune.weights(with_bias, ratio=0.5, names=names, scope="tensor").model[0]
    assert tensors.weight.tolist() == [[0, 0], [3, 4]] and tensors.bias.tolist() == [0, 9]


weights = st.builds(
    lambda shape, seed, scale: torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale,
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 1e-30, 1e30]),
)


@given(weights)
def test_of_single_weights_l1_and_l2_agree_to_the_last_bit(weight):
    assert torch.equal(norms(weight, "weight", "l1"), norms(weight, "weight", "l2"))
    assert torch.equal(norms(weight, "weight", "l2"), weight.abs().double().flatten())


@given(weights, st.sampled_from(UNITS))
def test_units_part_a_tensor_and_come_back(weight, unit):
    units = as_units(weight, unit)
    names = of_units(torch.arange(len(units)), weight.shape, unit)
    for index, own in enumerate(units):
        mine = weight[names == index]
        assert len(mine) and torch.equal(mine.sort().values, own[own != 0].sort().values)


@given(weights, st.sampled_from(UNITS), st.floats(0, 0.99), st.sampled_from(["l1", "l2"]))
def test_a_ratio_is_never_passed_and_no_unit_that_stays_is_below_one_that_goes(weight, unit, ratio, norm):
    layer = nn.Module()
    layer.weight = nn.Parameter(weight)
    sizes = norms(torch.ones_like(weight), unit, "l1")  # what a unit has for each of its weights is compared
    found = norms(weight, unit, norm) / sizes ** (1.0 if norm == "l1" else 0.5)
    try:
        pruned = prune.weights(layer, ratio=ratio, unit=unit, norm=norm)
    except InfeasibleError:
        pytest.fail("a ratio below 1 leaves at least one unit")
    gone = pruned.model.weight.detach() == 0
    assert int(gone.sum()) <= ratio * weight.numel() + 1e-6
    stays = (~gone).flatten() if unit == "weight" else as_units((~gone).float(), unit).sum(1) > 0
    if stays.any() and not stays.all():
        assert found[stays].min() >= found[~stays].max() - 1e-12
    if unit == "weight":
        assert int(gone.sum()) == int(ratio * weight.numel() + 1e-9)


def test_more_and_more_goes_and_what_went_stays_gone():
    model = nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 7))
    before = torch.zeros(0)
    for ratio in (0.2, 0.5, 0.8):
        model = prune.weights(model, ratio=ratio).model
        gone = torch.cat([layer.weight.flatten() == 0 for layer in model])
        assert int(gone.sum()) == int(ratio * 128) and bool(gone[: len(before)][before.bool()].all())
        before = gone


def test_torch_prunes_the_same_weights():
    """The oracle: torch.nn.utils.prune, global and by layer."""
    from torch.nn.utils import prune as torchs

    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3))
    for scope in ("global", "layer"):
        theirs = copy.deepcopy(model)
        if scope == "global":
            torchs.global_unstructured([(m, "weight") for m in theirs], torchs.L1Unstructured, amount=0.7)
        else:
            for module in theirs:
                torchs.l1_unstructured(module, "weight", amount=0.7)
        ours = prune.weights(model, ratio=0.7, scope=scope).model
        for mine, other in zip(ours, theirs, strict=True):
            assert (
                abs(int((mine.weight != 0).sum()) - int((other.weight != 0).sum())) <= 1
            )  # they round to nearest
            assert int(((mine.weight != 0) ^ (other.weight != 0)).sum()) <= 1
    filters = copy.deepcopy(model[0])
    torchs.ln_structured(filters, "weight", amount=2, n=2, dim=0)
    ours = prune.weights(nn.Sequential(model[0]), count=2, unit="filter", norm="l2").model[0]
    assert torch.equal(ours.weight, filters.weight)


def test_the_model_that_is_given_stays_as_it_was_and_the_manifest_does_it_again():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    whole = copy.deepcopy(model.state_dict())
    pruned = prune.weights(model, ratio=0.75)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    assert not masks.masked(model)
    again = replay(copy.deepcopy(model), Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json()))))
    assert all(torch.equal(t, pruned.model.state_dict()[n]) for n, t in again.state_dict().items())
    assert list(masks.masked(again)) == ["0.weight", "2.weight"]


def test_parametrized_weights_are_folded_and_that_is_said():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 2))
    x = torch.randn(3, 6)
    pruned = prune.weights(model, threshold=0)
    assert torch.allclose(pruned.model(x), model(x)) and pruned.cuts.folded == ("0",)
    assert any("folded" in note for note in pruned.notes)
    assert list(masks.masked(pruned.model)) == ["0.weight", "1.weight"]


def test_what_zeros_are_worth_is_told():
    pruned = prune.weights(nn.Linear(100, 100, bias=False), ratio=0.9)
    speed, size = pruned.notes
    assert "do not make a runtime for dense weights faster" in speed
    # 10,000 places at an entropy of 0.469 bits are 586 bytes, 1,000 float32 are 4,000
    assert "90.0 % of 10000 parameters are zero; packed, they need about 4.6 KB instead of 40.0 KB" in size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype):
    model = nn.Linear(16, 16).to(dtype)
    pruned = prune.weights(model, ratio=0.5)
    assert int((pruned.model.weight == 0).sum()) == 128 and pruned.model.weight.dtype == dtype


CHECKED = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, InputError, "exactly one of threshold, ratio, count, n_m; got none"),
        ({"ratio": 0.5, "count": 1}, InputError, "got ratio and count"),
        (
            {"ratio": 1.0},
            InputError,
            "ratio=1.0 must be at least 0 and below 1; it is the fraction that is removed",
        ),
        ({"ratio": True}, InputError, "ratio=True must be"),
        ({"threshold": -1e-3}, InputError, "threshold=-0.001 must be a number of at least 0"),
        ({"threshold": float("nan")}, InputError, "threshold=nan must be a number"),
        ({"threshold": 1e3}, InfeasibleError, r"every weight would go\. .* The quantiles of .*50 %"),
        ({"count": 280}, InfeasibleError, "at count=280 every weight would go"),
        ({"count": 281}, InputError, "count=281, and the model has 280 units"),
        ({"count": 100, "scope": "layer"}, InputError, "count=100, and the layer of '2.weight' has 64 units"),
        ({"count": 1.5}, InputError, "count=1.5 must be a whole number"),
        ({"ratio": 0.5, "norm": "l3"}, InputError, "norm='l3' must be one of l1, l2"),
        ({"ratio": 0.5, "unit": "rows"}, InputError, r"unit='rows' must be one of .* Did you mean 'row'\?"),
        ({"ratio": 0.5, "unit": (0, 2)}, InputError, "two whole numbers of at least 1"),
        ({"ratio": 0.5, "scope": "locl"}, InputError, "scope='locl' must be one of global, layer, tensor"),
        ({"n_m": (2, 4)}, InputError, r"'0.weight': n_m: m=4 must divide the 3 .* by protect=\['0.weight'\]"),
        ({"n_m": (5, 4), "protect": "0"}, InputError, "n=5 must be from 1 to m=4"),
        ({"n_m": 2}, InputError, r"n_m=2 must be two numbers, \(2, 4\)"),
        ({"n_m": (2, 4), "unit": "row"}, InputError, "n_m is of single weights"),
        ({"ratio": 0.5, "names": "0.wieght"}, InputError, r"nothing of the model\. Did you mean '0.weight'"),
        ({"ratio": 0.5, "protect": "7"}, InputError, "protect: '7' matches nothing of the model"),
        ({"ratio": 0.5, "protect": ["0", "2"]}, InfeasibleError, "no parameter is left to prune"),
    ],
)
def test_bad_input_is_told(how, error, message):
    with pytest.raises(error, match=message):
        prune.weights(CHECKED, **how)


def test_weights_that_are_not_finite_are_refused():
    model = nn.Linear(4, 4)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(RunError, match="'weight' has weights that are not finite"):
        prune.weights(model, ratio=0.5)


def test_the_step_in_a_recipe_by_the_same_names():
    steps = [{"prune.weights": {"ratio": 0.9, "unit": [4, 1], "protect": ["head"]}}]
    (step,) = parse_recipe({"steps": steps}).steps
    assert step == Weights(ratio=0.9, unit=(4, 1), protect=("head",))
    assert Weights().ratio == 0.5
    with pytest.raises(RecipeError, match=r"prune.weights.*threshold=-1"):
        parse_recipe({"steps": [{"prune.weights": {"threshold": -1.0}}]})


def test_the_step_is_the_function_and_tells_each_tensor(trained_task: Task):
    events = []
    context = Context(emit=lambda kind, fields: events.append((kind, fields)))
    result = Weights(ratio=0.8, recalibrate=0).apply(trained_task.build(), trained_task, context)
    alone = prune.weights(trained_task.build(), ratio=0.8)
    assert all(torch.equal(t, alone.model.state_dict()[n]) for n, t in result.model.state_dict().items())
    rows = result.details["tensors"]
    assert sum(row["zero"] for row in rows) == int(0.8 * sum(row["weights"] for row in rows))
    assert [kind for kind, _ in events] == ["pruned"] and result.notes == alone.notes


def test_units_of_unlike_size_compare_by_their_mean():
    """A filter of 9 weights of 0.5 is not less than one of 288 weights of 0.1."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(32, 8, 3))
    with torch.no_grad():
        model[0].weight.fill_(0.5)
        model[1].weight.fill_(0.1)
    pruned = prune.weights(model, count=4, unit="filter").model
    assert int((pruned[0].weight == 0).sum()) == 0
    assert int((pruned[1].weight == 0).flatten(1).all(1).sum()) == 4
    by_norm = prune.weights(model, threshold=9 * 0.5, unit="filter").model
    assert bool((by_norm[0].weight == 0).all()) and bool((by_norm[1].weight != 0).all())


def test_modules_may_be_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pruned = prune.weights(model, ratio=0.5, names=["1"]).model
    zeros = sum(int((parameter == 0).sum()) for parameter in pruned[1].parameters())
    assert bool((pruned[0].weight != 0).all()) and zeros == (16 + 4) // 2
