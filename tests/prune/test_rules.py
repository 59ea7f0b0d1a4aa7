import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.prune._couplings.couplings import NoRule
from paretune.prune._couplings.rules import TABLE, rule_of
from paretune.prune._couplings.rules.reshape import runs


def test_every_row_names_an_operator_that_exists():
    ours = [name for name in TABLE if "::" not in name]  # other libraries register theirs when they are imported
    assert ours and [name for name in ours if not hasattr(torch.ops.aten, name)] == []


def test_in_place_variants_and_overloads_share_a_row_and_pointwise_has_a_default():
    assert rule_of(torch.ops.aten.relu_.default) is rule_of(torch.ops.aten.relu.default)
    assert rule_of(torch.ops.aten.add_.Scalar) is rule_of(torch.ops.aten.add.Tensor)
    assert rule_of(torch.ops.aten.erfinv.default) is not None  # only its tag says what it is
    assert rule_of(torch.ops.aten.linalg_inv.default) is None
    assert rule_of(len) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([2, 8, 4, 4], [2, 128], [([0], [0]), ([1, 2, 3], [1])]),
        ([2, 8], [2, 2, 4], [([0], [0]), ([1], [1, 2])]),
        ([2, 1, 8], [2, 8], [([0], [0]), ([1], []), ([2], [1])]),
        ([2, 8], [2, 8, 1, 1], [([0], [0]), ([1], [1]), ([], [2]), ([], [3])]),
        ([4, 6], [3, 8], [([0, 1], [0, 1])]),
    ],
)
def test_runs_of_axes_hold_equally_many_positions(before, after, expected):
    assert runs(before, after) == expected


def test_shapes_that_do_not_match_have_no_runs():
    with pytest.raises(NoRule):
        runs([2, 3], [5])


WHICH = torch.tensor([1, 0])


class Apply(nn.Module):
    """A layer of 6 channels, an operator, and a layer that reads what comes out."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.LazyConv2d(4, 1)
        self.function = function if isinstance(function, nn.Module) else Function(function)

    def forward(self, x):
        return self.b(self.function(self.a(x))).tanh().flatten(1).mean(1, keepdim=True)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "prunable", "form"),
    [
        (lambda x: x.flip(1), 6, "module"),
        (lambda x: x.repeat(1, 2, 1, 1), 6, "module"),
        (lambda x: x.repeat_interleave(2, 1), 6, "module"),
        (lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 6, "module"),
        (lambda x: x.roll(1, 2), 6, "module"),
        (lambda x: x.roll(1, 1), 0, ""),
        (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), 6, "module"),
        (lambda x: F.pixel_unshuffle(x, 2), 6, "module"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 6, "module"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 6, "module"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)), 6, "module"),
        (lambda x: torch.stack([x, x.tanh()], 1).flatten(1, 2), 6, "module"),
        (nn.Softmax(1), 6, "module"),
        (lambda x: x.softmax(2), 6, "module"),
        (Function(lambda x: x / x.norm(dim=1, keepdim=True)), 6, "module"),
        (Function(lambda x: F.layer_norm(x, x.shape[-2:])), 6, "module"),
        (lambda x: F.instance_norm(x), 6, "module"),
        (lambda x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2), 0, ""),
        (lambda x: torch.cat(x.split(2, 1), 1).mul(x), 6, "module"),
        (lambda x: torch.cat([x, x.new_zeros(x.shape)], 1), 6, "graph"),
        (lambda x: x + x.new_ones(6, 1, 1), 6, "graph"),
        (lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1).sum(1), 6, "module"),
        (lambda x: torch.stack(x.unbind(1), 1), 0, ""),
        (lambda x: x.select(1, 2).unsqueeze(1), 5, "graph"),
        (lambda x: x.select(1, -2).unsqueeze(1), 5, "module"),
        (lambda x: F.glu(x, 1), 6, "module"),
        (lambda x: x.cumsum(1), 0, ""),
        (lambda x: F.avg_pool2d(x.permute(0, 2, 3, 1), (2, 1)).permute(0, 3, 1, 2), 6, "module"),
        (lambda x: F.max_pool2d(x.permute(0, 2, 1, 3), (1, 2), (1, 2)).permute(0, 2, 1, 3), 6, "module"),
        (lambda x: F.avg_pool2d(x.permute(0, 2, 3, 1), (1, 2)).permute(0, 3, 1, 2), 0, ""),
        (lambda x: torch.multiply(torch.subtract(x, 0.5), torch.absolute(x)), 6, "module"),  # others by parts
        (lambda x: torch.concatenate([x, torch.hstack([x, x])], 1), 6, "module"),
        (lambda x: x.clone().mul_(x.clone().gt_(0)), 6, "module"),  # in place, of what is known by its tag
        (lambda x: x.index_add(2, WHICH, x[:, :, :2].tanh()), 6, "module"),
        (lambda x: x.index_copy(2, WHICH, x[:, :, :2].tanh()), 6, "module"),
        (lambda x: x.index_add(1, WHICH, x[:, :2]), 0, ""),
        (lambda x: x.scatter_add(2, (x < 0).long(), x.tanh()), 6, "module"),
        (lambda x: torch.take_along_dim(x, (x < 0).long(), 2), 6, "module"),
        (lambda x: x.index_put((WHICH * 0,), x.tanh()), 6, "module"),
        (lambda x: torch.ops.aten.index_put(x, [None, WHICH], x[:, :2].tanh()), 0, ""),
        (lambda x: x.clone().index_put((x > 1,), torch.zeros(())), 6, "module"),
    ],
)
def test_what_an_operator_lets_through(oracle, function, prunable, form):
    image = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = Apply(function)
    model(image)  # the lazy layer takes its width from what comes out
    row = next(layer for layer in prune.analyze(model, image).layers if layer.name == "a")
    assert row.prunable == prunable, row.reason
    if prunable:
        over = {"function": (1, "a.weight")} if isinstance(function, nn.Module) else {}
        assert oracle(model, image, over=over, matters=prunable == 6, ratio=0.4).cuts.form == form


def _mean(x):
    return x.mean(-1, keepdim=True)


def _share(x):
    return x / x.sum(-1, keepdim=True)


BY_ROOT = {
    "rms": lambda a, b, w: w * (a * torch.rsqrt(a.square().mean(-1, keepdim=True))),
    "weight first": lambda a, b, w: a.float() * (w * torch.rsqrt((a * a).mean(-1, keepdim=True) + 1e-6)),
    "gated": lambda a, b, w: w * (a - a.mean(-1, keepdim=True)) / (a.std(-1, keepdim=True) + 1e-6),
    "norm": lambda a, b, w: (w * a) / a.norm(dim=-1, keepdim=True),
    "sum of squares": lambda a, b, w: a / (a * a).sum(-1, keepdim=True).pow(0.5),
    "its own sum": lambda a, b, w: _share(a.exp()),
    "shifted twice": lambda a, b, w: (a - _mean(a)) * torch.rsqrt((a - _mean(a)).pow(2).mean(-1, keepdim=True)),
}
BY_SOMETHING_ELSE = {
    "mean": lambda a, b, w: b - a.mean(-1, keepdim=True),
    "root": lambda a, b, w: b * torch.rsqrt(a.square().mean(-1, keepdim=True)),
    "norm": lambda a, b, w: b / a.norm(dim=-1, keepdim=True),
    "sum": lambda a, b, w: b / a.exp().sum(-1, keepdim=True),
    "sum below a root": lambda a, b, w: a / a.exp().sum(-1, keepdim=True).sqrt(),
    "root alone": lambda a, b, w: b + torch.rsqrt(a.square().mean(-1, keepdim=True)),
    "both": lambda a, b, w: (a + b) * torch.rsqrt(a.square().mean(-1, keepdim=True)).sum(0),
}


class Statistic(nn.Module):
    """Two layers, of which only `a` could be cut, and a function of both."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.weight, self.function = nn.Parameter(torch.rand(8) + 0.5), function

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return self.c(self.function(a, b, self.weight)) + b.tanh().mean(-1, keepdim=True)


@pytest.mark.parametrize("name", BY_ROOT)
def test_what_a_statistic_was_taken_of_may_be_cut_where_it_only_divides_that(name):
    model = Statistic(BY_ROOT[name])
    (group,) = prune.analyze(model, torch.randn(2, 5)).groups
    assert group.layers == ("a",)
    assert prune.channels(model, torch.randn(2, 5), ratio=0.4).model.a.out_features == 5


@pytest.mark.parametrize("name", BY_SOMETHING_ELSE)
def test_a_statistic_that_shifts_or_divides_something_else_is_no_norm_and_keeps_its_channels(name):
    assert not prune.analyze(Statistic(BY_SOMETHING_ELSE[name]), torch.randn(2, 5)).groups


SUMMARIES = {
    "mean and max": lambda y: torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1),
    "extremes": lambda y: torch.stack([y.amin(1), y.amax(1)], 1).relu(),
    "sum": lambda y: torch.cat([y.sum(1, keepdim=True), -y.min(1, keepdim=True).values], 1),
}


class Attended(nn.Module):
    """A layer whose channels are summed up for each place; a convolution makes weights of the places (CBAM)."""

    def __init__(self, summary):
        super().__init__()
        self.a, self.places, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.summary = summary

    def forward(self, x):
        y = self.a(x)
        return self.out(y * self.places(self.summary(y)).sigmoid())


@pytest.mark.parametrize("name", SUMMARIES)
def test_what_sums_channels_up_for_a_layer_with_weights_sums_up_those_that_stay(name):
    image, model = torch.randn(2, 3, 5, 5), Attended(SUMMARIES[name])
    pruned = prune.channels(model, image, widths={"a": 3})
    (cut,) = [cut for cut in pruned.cuts.cuts if cut.tensor == "a.weight"]
    y = model.a(image)[:, list(cut.keep)]
    expected = y * model.places(SUMMARIES[name](y)).sigmoid()
    expected = F.conv2d(expected, model.out.weight[:, list(cut.keep)], model.out.bias)
    torch.testing.assert_close(pruned.model(image), expected)


@pytest.mark.parametrize(
    "summary",
    [
        lambda y: torch.stack([y.max(1)[1], y.min(1)[1]], 1).float(),  # positions are others after a cut
        lambda y: y[:, :2] * y.mean(1, keepdim=True),  # mixed with other values
    ],
)
def test_channels_whose_summary_cannot_follow_stay(summary):
    (row,) = [row for row in prune.analyze(Attended(summary), torch.randn(2, 3, 5, 5)).layers if row.name == "a"]
    assert row.prunable == 0


def test_a_summary_that_reaches_the_output_without_a_weight_keeps_its_channels():
    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            y = self.a(x)
            return self.out(y), y.amax(-1)

    assert not prune.analyze(Norms(), torch.randn(2, 5)).groups


@pytest.mark.parametrize("form", ["module", "graph"])
def test_channels_that_are_groups_of_a_group_norm_go_with_them(oracle, form):
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.GroupNorm(8, 8), nn.GELU(), nn.Conv1d(8, 2, 1))
    pruned = oracle(model, torch.randn(1, 3, 9), ratio=0.4, form=form)
    assert pruned.widths == {"0": 5} and pruned.cuts.form == form


def test_both_inputs_of_a_bilinear_layer_and_what_it_makes_are_cut(oracle):
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.pair, self.out = (
                nn.Linear(5, 8), nn.Linear(5, 6), nn.Bilinear(8, 6, 10), nn.Linear(10, 3),
            )  # fmt: skip

        def forward(self, x):
            return self.out(self.pair(self.a(x), self.b(x).tanh()).relu())

    pruned = oracle(Pairs(), torch.randn(2, 5), reads={"pair.weight": (1, 2)}, ratio=0.5, scope="local")
    assert pruned.model.pair.weight.shape == (5, 4, 3) and pruned.cuts.form == "module"


def test_a_group_that_stretches_over_another_axis_keeps_its_one_channel():
    class Segments(nn.Module):
        """A score for each of two segments, of which each is stretched over the tokens (Funnel)."""

        def __init__(self):
            super().__init__()
            self.a, self.segments = nn.Linear(5, 6), nn.Parameter(torch.randn(2, 6))
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            first, second = torch.einsum("nd,sd->ns", self.a(x), self.segments).split(1, -1)
            return self.out(torch.where(x[:, :4] > 0, first.expand(-1, 4), second.expand(-1, 4)))

    (group,) = prune.analyze(Segments(), torch.randn(2, 5)).groups
    assert group.layers == ("a",)  # and no segment by itself


def test_what_is_repeated_to_a_size_that_is_named_follows_the_cut():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(5, 4), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.a(x).repeat_interleave(2, -1, output_size=8))

    pruned = prune.channels(Grouped(), torch.randn(2, 5), ratio=0.5)
    assert pruned.cuts.form == "graph" and pruned.model(torch.randn(3, 5)).shape == (3, 3)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_recurrent_cells_that_are_called_step_by_step_lose_hidden_units_by_their_parts(cell):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = cell(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            state = None
            for step in range(3):
                state = self.cell(x[:, step], state)
            return self.out(state[0] if isinstance(state, tuple) else state)

    pruned = prune.channels(Steps(), torch.randn(2, 3, 5), ratio=0.5)
    assert pruned.model.cell.hidden_size == pruned.model.out.in_features == 4
    assert pruned.cuts.form == "module"
