from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, InputError
from paretune.prune._analysis import only

INPUT = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))


def mlp(*widths):
    torch.manual_seed(1)
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture(scope="module")
def analysis():
    return prune.analyze(mlp(4, 16, 24, 8, 3), INPUT)


def kept(analysis, **how):
    keep = analysis.keep(prune.select(analysis, **how).removed)
    return [int(keep[group.makes[0].units].sum()) for group in analysis.groups]


def test_a_local_ratio_takes_the_same_part_of_every_group(analysis):
    assert kept(analysis, ratio=0.5, scope="local") == [8, 12, 4]
    assert kept(analysis, ratio=0.3, scope="local") == [12, 17, 6]  # 4 of 16, 7 of 24, 2 of 8


def test_a_global_ratio_takes_that_part_of_all(analysis):
    assert sum(kept(analysis, ratio=0.25)) == 36
    assert kept(analysis, ratio=0.0) == [16, 24, 8]


def test_global_ranking_is_free_of_the_scale_of_a_layer():
    model = mlp(4, 16, 16, 3)
    plain = kept(prune.analyze(model, INPUT), ratio=0.5)
    with torch.no_grad():
        model[0].weight.mul_(100)
    assert kept(prune.analyze(model, INPUT), ratio=0.5) == plain


def test_at_least_one_channel_stays_and_that_is_said(analysis):
    notes = prune.select(analysis, ratio=0.99, scope="local").notes
    assert notes[0] == "0 keeps 1 of 16 channels, its least" and len(notes) == 3
    assert kept(analysis, ratio=0.99, scope="local") == [1, 1, 1]
    assert min(kept(analysis, ratio=0.99)) >= 1


def test_widths_are_multiples(analysis):
    for how in ({"ratio": 0.4}, {"ratio": 0.4, "scope": "local"}, {"macs": 0.5}, {"macs": 0.5, "scope": "local"}):
        assert all(width % 8 == 0 for width in kept(analysis, multiple=8, **how))


def test_a_group_that_no_multiple_can_shrink_stays_whole_and_says_so(analysis):
    selection = prune.select(analysis, ratio=0.5, scope="local", multiple=16)
    assert [note.split(" keeps")[0] for note in selection.notes] == ["0", "4"]
    assert "its 8 channels: no smaller width that it can have is a multiple of 16" in selection.notes[1]
    assert list(selection.widths) == ["2"] and selection.widths["2"] == 16


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.1, 1.0), scope=st.sampled_from(["global", "local"]), multiple=st.sampled_from([1, 4]))
def test_a_target_of_macs_is_met_as_closely_as_one_more_channel_allows(target, scope, multiple):
    analysis = ANALYSIS
    selection = prune.select(analysis, macs=target, scope=scope, multiple=multiple)
    left = analysis.macs_of(analysis.keep(selection.removed))
    assert left <= target * analysis.macs
    if multiple == 1 and scope == "global":  # the widest channel costs 16 + 8 or 4 + 24 products
        assert left > target * analysis.macs - 48
    assert prune.predict(analysis, selection).macs == left


ANALYSIS = prune.analyze(mlp(4, 16, 24, 8, 3), INPUT)


def test_an_amount_of_macs(analysis):
    selection = prune.select(analysis, macs="300")
    assert analysis.macs_of(analysis.keep(selection.removed)) <= 300
    assert np.array_equal(prune.select(analysis, macs=300).removed, selection.removed)


def test_a_target_below_the_floor_is_refused_before_any_cut(analysis):
    with pytest.raises(
        InfeasibleError, match=r"macs=0.001 .* the least that this model can be cut to is 9 \(0.01"
    ):
        prune.select(analysis, macs=0.001)
    assert analysis.ceiling["macs"] == 4 + 1 + 1 + 3


def test_a_threshold_keeps_the_channels_above_it():
    model = mlp(2, 4, 2)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0], [0.1, 0.1], [2.0, -2.0], [0.5, -0.2]]))
    analysis = prune.analyze(model, torch.randn(1, 2))
    assert kept(analysis, threshold=0.7) == [2]
    assert kept(analysis, threshold=1e9) == [1]
    assert kept(analysis, threshold=0.0) == [4]


def test_widths_by_name_and_glob(analysis):
    assert kept(analysis, widths={"0": 5, "4": 8}) == [5, 24, 8]
    assert kept(analysis, widths={"*": 8}) == [8, 8, 8]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"nope": 3}, "'nope' matches no layer that can be cut"),
        ({"0": 17}, "0: 17 must be a whole number from 1 to 16"),
        ({"0": 0}, "0: 0 must be a whole number from 1 to 16"),
        ({"6": 2}, "'6' cannot be cut: it is the model's output"),
    ],
)
def test_widths_that_cannot_be_are_refused(analysis, widths, message):
    with pytest.raises(InputError, match=message):
        prune.select(analysis, widths=widths)


def test_protected_layers_keep_their_channels(analysis):
    assert kept(analysis, ratio=0.5, scope="local", protect=["2"]) == [8, 24, 4]
    assert kept(analysis, ratio=0.5, scope="local", protect="[02]") == [16, 24, 4]


def test_a_protected_name_that_matches_nothing_has_the_nearest():
    model = nn.Sequential()
    model.add_module("stem", nn.Linear(4, 6))
    model.add_module("head", nn.Linear(6, 2))
    with pytest.raises(InputError, match=r"protect: 'sten' matches no layer. Did you mean 'stem'\?"):
        prune.select(prune.analyze(model, INPUT), ratio=0.5, protect=["sten"])


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_ratio_outside_its_range_is_refused(analysis, ratio):
    with pytest.raises(InputError, match=f"ratio={ratio} must be at least 0 and below 1"):
        prune.select(analysis, ratio=ratio)


@pytest.mark.parametrize("macs", [0, -1, "0.0x", "2x", "many"])
def test_macs_outside_their_range_are_refused(analysis, macs):
    with pytest.raises(InputError, match="macs"):
        prune.select(analysis, macs=macs)


def test_one_target_exactly(analysis):
    with pytest.raises(
        InputError, match="exactly one of ratio, threshold, widths, macs, params, size, latency; got none"
    ):
        prune.select(analysis)
    with pytest.raises(InputError, match="got ratio and macs"):
        prune.select(analysis, ratio=0.5, macs=0.5)


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2), ("sum", 2), ("max", 1), ("first", 0)])
def test_scores_of_coupled_layers_are_combined_by_the_rule(combine, expected):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(1, 3), nn.Linear(1, 3), nn.Linear(3, 2)
            with torch.no_grad():
                self.a.weight.copy_(torch.tensor([[1.0], [3.0], [2.0]]))
                self.b.weight.copy_(torch.tensor([[6.0], [3.5], [2.5]]))

        def forward(self, x):
            return self.head(self.a(x) + self.b(x))

    # means 3.5, 3.25, 2.25; maxima 6, 3.5, 2.5 (so 2 goes first there too); first 1, 3, 2
    model = Sum()
    with torch.no_grad():
        if combine == "max":
            model.b.weight[2] = 4.0  # maxima 6, 3.5, 4
    analysis = prune.analyze(model, torch.randn(1, 1))
    selection = prune.select(analysis, widths={"a": 2}, combine=combine, score="l1")
    assert selection.removed.tolist() == [int(analysis.groups[0].makes[0].units[expected])]


def test_a_score_that_needs_more_than_weights_is_refused(analysis):
    def taylor(weight, grad):
        return weight * grad

    with pytest.raises(InputError, match="score 'taylor' needs grad"):
        prune.select(analysis, ratio=0.5, score=taylor)
    with pytest.raises(InputError, match="no method 'l2x' in scores"):
        prune.select(analysis, ratio=0.5, score="l2x")


def test_no_axis_is_ever_emptied():
    class Parts(nn.Module):
        """Two readers of one width: the first sees only the last two channels."""

        def __init__(self):
            super().__init__()
            self.a, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(4, 3)

        def forward(self, x):
            x = self.a(x)
            return self.left(x) + self.right(x.chunk(2, 1)[1])

    pruned = prune.channels(Parts(), INPUT, ratio=0.9)
    assert pruned.model.right.weight.shape[1] >= 1 and pruned.model(INPUT).shape == (1, 3)


def test_counts_do_not_depend_on_what_was_counted_before():
    """Axes are known by their id while they live: one that was freed must not answer for another."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, groups=2) for _ in range(6)), nn.Conv2d(8, 4, 1))
    analysis = prune.analyze(model, torch.zeros(1, 8, 6, 6))
    params = analysis.params
    for _ in range(5):
        analysis = only(analysis, ["channels"])
        assert analysis.params == params == sum(parameter.numel() for parameter in model.parameters())


def test_where_all_is_protected_that_could_go_a_note_says_so():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    pruned = prune.channels(model, torch.randn(2, 5), ratio=0.5, protect=["*"])
    assert pruned.widths == {} and pruned.notes[0].startswith("nothing was cut: what is protected is all")
