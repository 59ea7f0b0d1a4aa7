"""Neighbour pruning: the two walks by hand and as properties, and merging that loses nothing of alike units."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.cuts import Cuts, replay
from paretune.errors import InfeasibleError, InputError, RecipeError
from paretune.prune import Branch, Neighbours, removal_tree
from paretune.prune._neighbours.units import Moments, by_weights
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

SIMILAR = np.array(
    [
        [1.0, 0.8, 0.1, 0.2, 0.7],
        [0.8, 1.0, 0.75, 0.0, 0.1],
        [0.1, 0.75, 1.0, 0.3, 0.2],
        [0.2, 0.0, 0.3, 1.0, 0.6],
        [0.7, 0.1, 0.2, 0.6, 1.0],
    ]
)
IMPORTANCE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


def test_above_by_hand():
    """T = 0.65 joins 0-1, 1-2, 0-4.

    0 goes, since 1 and 4 are more important. Then its neighbours: 1, the most alike, goes, since 2 is more
    important; 4 and 2 stay, nothing more important is there. 0 merges into 4 (0.7, 1 is gone), 1 into 2 (0.75).
    """
    assert removal_tree(IMPORTANCE, SIMILAR, 0.65) == [Branch(0, None, 4, 0.7), Branch(1, 0, 2, 0.75)]
    assert removal_tree(IMPORTANCE, SIMILAR, 0.77) == [Branch(0, None, 1, 0.8)]
    assert removal_tree(IMPORTANCE, SIMILAR, 0.8) == []
    assert removal_tree(IMPORTANCE, SIMILAR, 0.65, most=1) == [Branch(0, None, 1, 0.8)]


def test_below_by_hand():
    """T = 0.05 joins 1-3 alone: 0 goes, and none is less alike to it.

    T = 0.15 joins 0-2, 1-3, 1-4: 0, then 2, which is joined to no other. T = 0.25 joins 2-4, 0-3 too: 0, 2 (0.1),
    3 (0.2), which leads to 1; 4 is the most important and stays.
    """
    assert removal_tree(IMPORTANCE, SIMILAR, 0.05, remove="below") == [Branch(0, None, 1, 0.8)]
    two = removal_tree(IMPORTANCE, SIMILAR, 0.15, remove="below")
    assert two == [Branch(0, None, 1, 0.8), Branch(2, 0, 1, 0.75)]
    most = removal_tree(IMPORTANCE, SIMILAR, 0.25, remove="below")
    assert [(b.unit, b.parent, b.into) for b in most] == [(0, None, 4), (2, 0, 4), (3, 0, 4), (1, 3, 4)]


def test_what_stays_and_what_cannot_be_compared():
    held = np.array([True, False, False, False, False])
    assert [b.unit for b in removal_tree(IMPORTANCE, SIMILAR, 0.65, stays=held)] == [1]
    apart = np.ones((5, 5), bool)
    apart[0, 4] = apart[4, 0] = apart[0, 1] = apart[1, 0] = False
    assert [b.unit for b in removal_tree(IMPORTANCE, SIMILAR, 0.65, joined=apart)] == [1]


@st.composite
def likenesses(draw):
    count, seed = draw(st.integers(1, 12)), draw(st.integers(0, 2**32 - 1))
    rows = np.random.default_rng(seed).normal(size=(count, draw(st.integers(1, 4))))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.round(np.abs(rows).sum(1), 1), np.clip(rows @ rows.T, -1, 1)


@given(likenesses(), st.floats(-1, 1))
def test_in_the_end_no_two_that_stay_are_more_alike_than_t(found, threshold):
    importance, similarity = found
    tree = removal_tree(importance, similarity, threshold)
    gone = [branch.unit for branch in tree]
    stays = np.setdiff1d(np.arange(len(importance)), gone)
    assert len(gone) == len(set(gone)) and len(stays) >= 1
    pairs = similarity[np.ix_(stays, stays)] - 2 * np.eye(len(stays))
    assert not (pairs > threshold).any()
    for branch in tree:
        assert branch.into in stays
        assert branch.similarity == pytest.approx(similarity[branch.unit, stays].max())
        assert branch.parent is None or similarity[branch.parent, branch.unit] > threshold


@given(likenesses(), st.floats(-1, 1))
def test_below_takes_what_is_joined_to_the_least_important_and_no_more(found, threshold):
    """The oracle: connected components by powers of the matrix of who is joined to whom."""
    importance, similarity = found
    count = len(importance)
    best = np.lexsort((np.arange(count), importance))[-1]
    joined = (similarity < threshold) | np.eye(count, dtype=bool)
    joined[best] = joined[:, best] = False
    reach = np.linalg.matrix_power(joined.astype(float), count) > 0
    least = np.lexsort((np.arange(count), importance))[0]
    expected = set(np.flatnonzero(reach[least])) if count > 1 else set()
    assert {branch.unit for branch in removal_tree(importance, similarity, threshold, remove="below")} == expected


def twins():
    """Unit 5 is twice unit 1, unit 7 half of unit 2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for copy_, of, factor in ((5, 1, 2.0), (7, 2, 0.5)):
            model[0].weight[copy_], model[0].bias[copy_] = factor * model[0].weight[of], factor * model[0].bias[of]
    return model


@pytest.mark.parametrize("how", [{}, {"of": "activations", "data": ROWS}])
def test_units_that_are_multiples_of_one_another_merge_without_loss(how):
    model = twins()
    whole = copy.deepcopy(model.state_dict())
    pruned = prune.neighbours(model, ROWS[:2], similarity=0.999, **how)
    assert pruned.widths == {"0": 6}
    ((name, tree),) = pruned.trees
    assert name == "0" and {(branch.unit, branch.into) for branch in tree} == {(1, 5), (7, 2)}
    assert torch.allclose(pruned.model(ROWS), model(ROWS), rtol=0, atol=1e-14)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in model.state_dict().items())
    alone = prune.neighbours(model, ROWS[:2], similarity=0.999, merge=False, **how)
    assert alone.widths == {"0": 6} and (alone.model(ROWS) - model(ROWS)).abs().max() > 1e-3


def test_the_batch_norm_behind_counts():
    """Weights of opposite sign behind scales of opposite sign are the same unit; alike weights need not be."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten()
    )
    model = nn.Sequential(*model, nn.Linear(2 * 16, 2)).double().eval()
    norm = model[1]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        model[0].weight[3] = -3 * model[0].weight[0]
        norm.running_mean[3] = -3 * norm.running_mean[0]
        slope = norm.weight[0] / (norm.running_var[0] + norm.eps).sqrt()
        norm.weight[3] = -2 / 3 * slope * (norm.running_var[3] + norm.eps).sqrt()
        norm.bias[3] = 2 * norm.bias[0]
        model[0].weight[2] = model[0].weight[1]  # the same weights, another shift
        norm.bias[2] = norm.bias[1] + 5
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruned = prune.neighbours(model, x, similarity=0.9999, protect="3")
    ((name, tree),) = pruned.trees
    assert name == "0" and [(branch.unit, branch.into) for branch in tree] in ([(0, 3)], [(3, 0)])
    assert torch.allclose(pruned.model(x), model(x), rtol=0, atol=1e-12)


def test_moments_are_numpys_correlation():
    rows = np.random.default_rng(0).normal(size=(50, 4)) + 3
    rows[:, 3] = 2.0
    moments = Moments(4)
    for part in np.split(rows, [20, 21]):
        moments.add(torch.from_numpy(part))
    found = moments.likeness(np.ones((4, 4), bool))
    assert np.allclose(found.similarity[:3, :3], np.corrcoef(rows[:, :3].T))
    assert found.similarity[3].tolist() == [0, 0, 0, 1]  # it never varies
    nearest = np.linalg.lstsq(rows[:, [1]], rows[:, 0], rcond=None)[0][0]
    assert found.scale[0, 1] == pytest.approx(nearest)


def test_a_ratio_of_every_layer_and_the_same_each_time():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 2)).double()
    first, again = (prune.neighbours(model, ROWS[:2], ratio=0.5) for _ in range(2))
    assert first.widths == {"0": 5, "2": 4} and first.trees == again.trees
    assert torch.equal(first.model(ROWS), again.model(ROWS))
    worst = prune.neighbours(model, ROWS[:2], ratio=0.95)
    assert worst.widths == {"0": 1, "2": 1}


def test_the_manifest_is_that_of_the_cut_and_what_was_merged_is_in_the_weights():
    model = twins()
    pruned = prune.neighbours(model, ROWS[:2], ratio=0.5)
    cuts = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    fresh = replay(twins(), cuts)
    fresh.load_state_dict(pruned.model.state_dict())
    assert torch.equal(fresh(ROWS), pruned.model(ROWS))


def test_weight_norm_and_the_rewritten_graph():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        model[0].bias[4] = 3 * model[0].bias[1]
        model[0].weight = torch.cat([model[0].weight[:4], 3 * model[0].weight[1:2], model[0].weight[5:]])
    pruned = prune.neighbours(model, ROWS[:2], similarity=0.999)
    assert pruned.cuts.folded == ("0",) and pruned.widths == {"0": 7}
    assert torch.allclose(pruned.model(ROWS), model(ROWS), rtol=0, atol=1e-12)
    graph = prune.neighbours(twins(), ROWS[:2], similarity=0.999, form="graph")
    assert graph.cuts.form == "graph" and torch.allclose(graph.model(ROWS), twins()(ROWS), rtol=0, atol=1e-14)


def test_residual_sums_and_parallel_branches():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)
            self.c, self.d, self.e = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 2)

        def forward(self, x):
            x = self.a(x).relu()
            x = (x + self.b(x)).relu()
            return self.e(torch.cat([self.c(x), self.d(x)], 1).relu())

    model = Net().double()
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight[3], layer.bias[3] = 2 * layer.weight[6], 2 * layer.bias[6]
    pruned = prune.neighbours(model, ROWS[:2], similarity=0.999)
    assert pruned.widths == {"a": 7}
    assert torch.allclose(pruned.model(ROWS), model(ROWS), rtol=0, atol=1e-12)
    half = prune.neighbours(model, ROWS[:2], ratio=0.5)
    assert {branch.unit for _, tree in half.trees for branch in tree} and half.model(ROWS).shape == (40, 2)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "exactly one of similarity and ratio; got none"),
        ({"similarity": 0.5, "ratio": 0.5}, "got both"),
        ({"similarity": 1.5}, "similarity=1.5 must be from -1 to 1: units more alike than it are redundant"),
        ({"similarity": -1.01}, "similarity=-1.01 must be from -1 to 1"),
        ({"similarity": float("nan")}, "similarity=nan must be from -1 to 1"),
        ({"similarity": "0.5"}, "similarity='0.5' must be from -1 to 1"),
        ({"ratio": 1.0}, "ratio=1.0 must be at least 0 and below 1"),
        ({"ratio": 0.5, "remove": "abve"}, r"remove='abve' must be one of above, below\. Did you mean 'above'\?"),
        ({"ratio": 0.5, "remove": "below"}, "remove='below' needs similarity="),
        ({"ratio": 0.5, "of": "weight"}, r"of='weight' must be one of .* Did you mean 'weights'\?"),
        ({"ratio": 0.5, "of": "activations"}, "needs calibration inputs: pass data="),
        ({"ratio": 0.5, "of": "activations", "data": []}, "data"),
        ({"ratio": 0.5, "protect": "9"}, "protect: '9' matches no layer"),
        ({"ratio": 0.5, "structures": ("haeds",)}, "Did you mean 'heads'"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message):
        prune.neighbours(twins(), ROWS[:2], **how)


def test_nothing_alike_and_nothing_to_prune():
    pruned = prune.neighbours(twins(), ROWS[:2], similarity=1.0)
    assert pruned.widths == {} and any("no two units are as alike" in note for note in pruned.notes)
    with pytest.raises(InfeasibleError):
        prune.neighbours(nn.Linear(6, 2).double(), ROWS[:2], ratio=0.5)


def test_the_step(trained_task: Task):
    (step,) = parse_recipe({"steps": [{"prune.neighbours": {"similarity": 0.9, "of": "activations"}}]}).steps
    assert step == Neighbours(similarity=0.9, of="activations") and Neighbours().ratio == 0.5
    with pytest.raises(RecipeError, match=r"similarity=2"):
        parse_recipe({"steps": [{"prune.neighbours": {"similarity": 2.0}}]})
    with pytest.raises(RecipeError, match=r"structures: 'chanels' is none of .* Did you mean 'channels'"):
        Neighbours(structures=("chanels",))
    for chosen in (Neighbours(ratio=0.3), Neighbours(ratio=0.3, of="activations", samples=64)):
        result = chosen.apply(trained_task.build(), trained_task, Context())
        assert json.dumps(result.details) and result.details["trees"]
        assert result.details["after"]["params"] < result.details["before"]["params"]


def merged_without_loss(model, inputs):
    """Merge the two units that are alike, and return how they compare."""
    analysis = prune.analyze(model, inputs[:1])
    alike = by_weights(analysis, analysis.groups[0])
    made = prune.neighbours(model, inputs[:1], similarity=0.9999)
    assert made.trees and torch.allclose(made.model(inputs), model(inputs), atol=1e-9)
    return alike.similarity[0, 1], alike.scale[1, 0]


PIXELS = torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("first", "second"), [(2.0, 2.0), (2.0, 1.0), (1.0, 3.0)])
def test_a_depthwise_layer_makes_one_function_with_what_it_reads(first, second):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 5, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[1] = first * model[0].weight[0]
        model[2].weight[1] = second * model[2].weight[0]
        model[2].bias[1] = first * second * model[2].bias[0]
    similarity, scale = merged_without_loss(model, PIXELS)
    assert similarity == pytest.approx(1) and scale == pytest.approx(first * second)


def test_two_minus_signs_are_no_plus_behind_a_relu():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 5, 1), nn.Flatten(),
        nn.Linear(180, 2),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[1], layer.bias[1] = -layer.weight[0], -layer.bias[0]
    analysis = prune.analyze(model, PIXELS[:1])
    assert by_weights(analysis, analysis.groups[0]).similarity[0, 1] < 0


@pytest.mark.parametrize("affine", [True, False])
def test_every_maker_has_its_own_batch_norm(affine):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, bias=False)
            self.norms = nn.ModuleList(
                [nn.BatchNorm2d(4, affine=affine, momentum=None, eps=1e-30) for _ in range(2)]
            )
            self.out = nn.Conv2d(4, 5, 1)

        def forward(self, x):
            return self.out(torch.relu(self.norms[0](self.left(x)) + self.norms[1](self.right(x)))).mean((2, 3))

    torch.manual_seed(0)
    model = Sum().double()
    with torch.no_grad():
        model.left.weight[1], model.right.weight[1] = 3 * model.left.weight[0], 2 * model.right.weight[0]
        model.left.bias[1] += 5  # which the running mean takes away again
        model.train()(PIXELS)
    similarity, scale = merged_without_loss(model.eval(), PIXELS)
    assert similarity == pytest.approx(1) and scale == pytest.approx(1)


def test_masked_weights_stay_zero_when_units_merge():
    model = prune.weights(twins(), ratio=0.5, protect=["0"]).model
    before = int((model[2].weight == 0).sum())
    made = prune.neighbours(model, ROWS[:2], similarity=0.999)
    zeros = int((made.model[2].weight == 0).sum())
    kept = [place for place in range(8) if place not in {branch.unit for _, tree in made.trees for branch in tree}]
    assert 0 < zeros == int((model[2].weight[:, kept] == 0).sum()) <= before
