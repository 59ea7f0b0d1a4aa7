import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InputError, TaskError
from paretune.prune import scores
from paretune.prune._couplings.parts import makers, parts_of
from paretune.prune._ranking import kinds, presence, rank
from paretune.prune._selection.selection import DEFAULT


class Net(nn.Module):
    """Two inner widths and the width of a shortcut, each with its norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8)
        self.a1, self.n1, self.b1 = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)
        self.a2, self.n2, self.b2 = nn.Conv2d(8, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.bn(self.stem(x))
        x = x + self.b1(F.relu(self.n1(self.a1(x))))
        x = x + self.b2(F.relu(self.n2(self.a2(x))))
        return self.head(x.mean((2, 3)))


X = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Attention()


def gone(analysis, layer, **how):
    """Return which channels of a layer go."""
    keep = analysis.keep(prune.select(analysis, **how).removed)
    made = next(made for made in analysis.couplings.makes if made.tensor == f"{layer}.weight")
    return np.flatnonzero(~keep[made.units]).tolist()


def test_a_score_of_what_reads_lands_on_the_channels_that_are_read(model):
    with torch.no_grad():
        model.n1.weight.copy_(torch.tensor([1.0, 0, 1, 1, 0, 1]))  # dead after the ReLU
        model.n1.bias.copy_(torch.tensor([0.5, -1, 0.5, 0.5, -1, 0.5]))
    analysis = prune.analyze(model, X[:1])
    for score in ("apoz", "wanda", "thinet", "lasso"):
        assert gone(analysis, "a1", widths={"a1": 4}, score=score, data=X) == [1, 4], score


def test_a_score_of_norms_lands_on_the_channels_that_they_scale(model):
    with torch.no_grad():
        model.n2.weight.copy_(torch.tensor([1.0, 0.1, 1, 1, -0.2, 1, 1, 1, 0.3, 1]))
    assert gone(prune.analyze(model, X[:1]), "a2", widths={"a2": 7}, score="bn_scale") == [1, 4, 8]


def test_what_a_score_knows_nothing_of_stays_and_that_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2))
    analysis = prune.analyze(model, torch.randn(1, 3))
    selection = prune.select(analysis, ratio=0.5, score="bn_scale")
    assert selection.widths == {"0": 4}
    assert (
        "3 keeps its 6 channels: score 'bn_scale' needs bn_weight, which not all of them have" in selection.notes
    )
    with pytest.raises(InputError, match=r"widths: '3' cannot be cut: score 'bn_scale' needs bn_weight"):
        prune.select(analysis, widths={"3": 4}, score="bn_scale")
    with pytest.raises(InputError, match="needs bn_weight, which no layer that can be pruned has"):
        prune.select(
            prune.analyze(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.randn(1, 3)),
            ratio=0.5,
            score="bn_scale",
        )


def test_signed_scores_are_normalised_by_their_size(model):
    """The scores of GraSP may add up to less than nothing; the order within a group must stand all the same."""
    analysis = prune.analyze(model, X[:1])

    def signed(weight):
        return torch.arange(len(weight), dtype=torch.float32) - len(weight)

    removed = gone(analysis, "a2", ratio=0.5, score=signed)
    assert removed == list(range(len(removed))) and removed


def test_groups_are_of_one_kind_where_the_same_operators_make_and_read_them(model):
    analysis = prune.analyze(model, X[:1])
    state, groups = analysis.couplings, analysis.groups
    found = kinds(state, groups, parts_of(state, groups, [*makers(groups), *state.reads]))
    by_layer = {group.layers[0]: kind for group, kind in zip(groups, found, strict=True)}
    assert by_layer["a1"] == by_layer["a2"] != by_layer["stem"]


def test_heads_their_widths_and_feed_forward_widths_are_kinds_of_their_own():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
            self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))
            return x + self.down(F.gelu(self.up(x)))

    analysis = prune.analyze(
        nn.Sequential(nn.Linear(5, 12), Block(), Block(), nn.Linear(12, 2)), torch.randn(2, 7, 5)
    )
    state, groups = analysis.couplings, analysis.groups
    found = kinds(state, groups, parts_of(state, groups, [*makers(groups), *state.reads]))
    kind = {(group.layers[0], group.blocks.size): k for group, k in zip(groups, found, strict=True)}
    assert kind["1.up", 20] == kind["2.up", 20]
    assert kind["1.qkv", 3] == kind["2.qkv", 3]
    assert len({kind["0", 12], kind["1.up", 20], kind["1.qkv", 3]}) == 3


def test_every_kind_loses_the_same_part_however_its_scores_are_spread(model):
    """With half of each inner width near zero, a global ranking takes nothing else; an isomorphic one does."""
    with torch.no_grad():
        for layer in (model.a1, model.a2):
            layer.weight[: layer.out_channels // 2] *= 1e-6
    analysis = prune.analyze(model, X[:1])
    assert gone(analysis, "stem", ratio=1 / 3) == []
    for ratio in (0.25, 0.5):
        lost = {name: len(gone(analysis, name, ratio=ratio, scope="isomorphic")) for name in ("stem", "a1", "a2")}
        assert lost["stem"] == 8 * ratio and lost["a1"] + lost["a2"] == int(16 * ratio)


def test_a_budget_is_met_with_the_same_part_of_every_kind(model):
    analysis = prune.analyze(model, X[:1])
    selection = prune.select(analysis, macs=0.5, scope="isomorphic")
    assert 0.4 < analysis.macs_of(analysis.keep(selection.removed)) / analysis.macs <= 0.5
    lost = {name: len(gone(analysis, name, macs=0.5, scope="isomorphic")) for name in ("stem", "a1", "a2")}
    assert abs(lost["stem"] / 8 - (lost["a1"] + lost["a2"]) / 16) <= 1 / 8


def test_widths_of_layers_that_make_unlike_parts_of_a_group_are_multiples_too():
    class Padded(nn.Module):
        """A shortcut that is padded with zeros: the second width holds the first."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 2, 1)

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.head(F.relu(self.b(x) + torch.cat([x, torch.zeros_like(x)], 1)))

    torch.manual_seed(0)
    analysis = prune.analyze(Padded(), torch.randn(1, 3, 4, 4))
    for how in ({"ratio": 0.4}, {"macs": 0.5}, {"ratio": 0.5, "scope": "local"}):
        selection = prune.select(analysis, multiple=4, **how)
        keep = analysis.keep(selection.removed)
        widths = {
            made.tensor: int(keep[made.units].sum()) for made in analysis.couplings.makes if made.tensor[0] in "ab"
        }
        assert all(width % 4 == 0 and width for width in widths.values()), widths
        assert sum(widths.values()) < 48
        assert selection.widths["a"] == widths["a.weight"]


@pytest.mark.parametrize("score", sorted(set(scores.__all__)))
def test_every_score_prunes_a_network(model, score):
    y = torch.randint(0, 3, (4,), generator=torch.Generator().manual_seed(0))
    pruned = prune.channels(model, X[:1], macs=0.6, score=score, data=(X, y), loss="cross_entropy")
    assert 0.45 < pruned.after["macs"] / pruned.before["macs"] <= 0.6
    assert pruned.model(X).shape == (4, 3)


def test_a_threshold_of_the_gradient_keeps_what_the_loss_pulls_at(model):
    """Channels above T are kept, and the kernels that stay are packed into a new, smaller one."""
    y = torch.randint(0, 3, (4,), generator=torch.Generator().manual_seed(0))
    seen = {}

    def keep(module, inputs, output):
        output.retain_grad()
        seen["a1"] = output

    with_hook = model.a1.register_forward_hook(keep)
    F.cross_entropy(model.eval()(X), y).backward()
    with_hook.remove()
    pull = seen["a1"].grad.abs().sum((0, 2, 3))
    threshold = float(pull.sort().values[2:4].mean())
    pruned = prune.channels(
        model,
        X[:1],
        threshold=threshold,
        score="gradient_norm",
        data=(X, y),
        loss="cross_entropy",
        protect=["stem", "a2"],
        repair=False,
    )
    assert pruned.widths == {"a1": 3}
    assert torch.equal(pruned.model.a1.weight, model.a1.weight[pull > threshold])
    assert torch.equal(pruned.model.b1.weight, model.b1.weight[:, pull > threshold])


def test_ties_take_from_all_groups_alike(model):
    """Scales of norms that were never trained are all 1: no inner width is emptied before the next is begun."""
    analysis = prune.analyze(model, X[:1])
    lost = {name: len(gone(analysis, name, ratio=0.5, score="bn_scale")) for name in ("stem", "a1", "a2")}
    assert lost == {"stem": 0, "a1": 4, "a2": 8}  # a channel of the stem is one of six layers


def test_a_score_with_options(model):
    y = torch.randint(0, 3, (4,), generator=torch.Generator().manual_seed(0))
    analysis = prune.analyze(model, X[:1])
    how = {"ratio": 0.5, "data": (X, y), "loss": "cross_entropy"}
    of_output = prune.select(analysis, score={"gradient_norm": {"of": "output"}}, **how).removed
    assert np.array_equal(of_output, prune.select(analysis, score="gradient_norm", **how).removed)
    assert not np.array_equal(
        of_output, prune.select(analysis, score={"gradient_norm": {"of": "weight"}}, **how).removed
    )
    assert np.array_equal(
        prune.select(analysis, ratio=0.5, score={"l1": None}).removed,
        prune.select(analysis, score="l1", ratio=0.5).removed,
    )


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            {"gradient_norm": {"off": 1}},
            r"score 'gradient_norm' has no option 'off'. Did you mean 'of'\? It takes of",
        ),
        ({"l1": {"p": 1}}, "score 'l1' has no option 'p'. It takes none"),
        ({"taylor": {"of": "outputs"}}, r"of='outputs' must be one of output, weight\. Did you mean 'output'\?"),
        ({"l1": {}, "l2": {}}, "must be one name with its options"),
        ("fischer", "no method 'fischer' in scores. Did you mean 'fisher'"),
    ],
)
def test_a_score_that_cannot_be_is_refused(model, score, message):
    with pytest.raises(InputError, match=message):
        prune.select(prune.analyze(model, X[:1]), ratio=0.5, score=score)


def test_by_default_what_a_layer_makes_is_compared_by_geometric_median_and_a_threshold_is_in_l1(model):
    analysis = prune.analyze(model, X[:1])
    by = {
        score: prune.select(analysis, ratio=0.5, score=score).removed.tolist() for score in (None, "l2", DEFAULT)
    }
    assert by[None] == by[DEFAULT] != by["l2"] and DEFAULT == "geometric_median"
    by_threshold = [prune.select(analysis, threshold=1.0, score=score).removed.tolist() for score in (None, "l1")]
    assert by_threshold[0] == by_threshold[1]


def test_scores_of_a_group_count_for_what_its_channels_are_to_their_layers(model):
    """By hand: three layers of 8 make the stem's channels and three read them, 6 / sqrt(8); else one each."""
    analysis = prune.analyze(model, X[:1])
    state, groups = analysis.couplings, analysis.groups
    parts = parts_of(state, groups, makers(groups))
    values = [np.arange(1.0, len(part.units) + 1) for part in parts]
    compared = presence(groups, parts_of(state, groups, [*makers(groups), *state.reads]))
    ranked, unknown = rank(state, groups, parts, values, "mean", compared)
    assert not unknown
    expected = {"stem": (6, 8), "a1": (2, 6), "a2": (2, 10)}  # all but the best channel, which stays
    for group in ranked:
        layers, width = expected[group.group.layers[0]]
        rises = np.sqrt(width / (width - np.arange(width - 1)))
        scores = np.arange(1.0, width) / ((width + 1) / 2) * layers / width**0.5 * rises
        np.testing.assert_allclose(group.scores, scores)


def test_a_sum_over_layers_counts_each_layer_once():
    """A shortcut that pads with zeros: the second layer's width of 32 holds the first's 16 in its middle."""
    torch.manual_seed(0)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(self.b(x) + F.pad(x, (0, 0, 0, 0, 8, 8)))

    analysis = prune.analyze(Padded(), torch.randn(1, 3, 4, 4))
    state, groups = analysis.couplings, analysis.groups
    parts = parts_of(state, groups, makers(groups))
    compared = presence(groups, parts_of(state, groups, [*makers(groups), *state.reads]))
    ones = [np.ones(len(part.units)) for part in parts]
    spread = {}
    for combine in ("mean", "sum"):
        (group,), _ = rank(state, groups, parts, ones, combine, compared, in_turn=True)
        spread[combine] = group.scores.max() / group.scores.min()
    assert spread["sum"] == pytest.approx(2)  # two layers make the middle
    # by hand: made by 16 and by 32, read by 16 and by 32, against made by 32 and read by 32
    assert spread["mean"] == pytest.approx((2 / 4 + 2 / 32**0.5) / (2 / 32**0.5))


def test_a_head_is_as_much_as_its_channels(attention):
    """Four heads of 4 on a width of 16: made by q, k and v and read by o, 4 / sqrt(16) of each."""
    analysis = prune.analyze(attention, torch.zeros(1, 3, 16))
    state, groups = analysis.couplings, analysis.groups
    found = presence(groups, parts_of(state, groups, [*makers(groups), *state.reads]))
    (heads,) = [value for group, value in zip(groups, found, strict=True) if group.structure == "heads"]
    np.testing.assert_allclose(heads, 4 * 4 / 4)


def test_the_step_takes_scores_of_data_only_where_there_are_some(tiny_task):
    from dataclasses import replace

    without = replace(tiny_task, train=None)
    model = tiny_task.build()
    analysis = prune.Channels().analyze(model, tiny_task)

    def chosen(task, **how):
        return sorted(prune.Channels(ratio=0.5, **how).select(analysis, task).removed.tolist())

    assert (
        chosen(without)
        == chosen(tiny_task)
        == chosen(tiny_task, score=DEFAULT)
        != chosen(tiny_task, score="ziplm")
    )
    by_threshold = [
        prune.Channels(threshold=8.0, score=score).select(analysis, without).widths for score in (None, "l1")
    ]
    assert by_threshold[0] == by_threshold[1] != {}
    with pytest.raises(TaskError, match=r"needs task\.train"):
        chosen(without, score="ziplm")
