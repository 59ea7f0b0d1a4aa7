"""What is cut is the model that was given: weights that are computed, code that asks where it runs, train mode."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, SurgeryError
from paretune.prune._compare import mistaken, outputs


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class TwoOfOne(nn.Module):
    """Two weights of one parameter, neither of which is it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.w, self.o = nn.Linear(8, 16), nn.Parameter(torch.randn(12, 16)), nn.Linear(12, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.o((F.linear(h, self.w.clamp(min=0)) - 0.5 * F.linear(h, self.w.clamp(max=0))).relu())


class Stacked(TwoOfOne):
    """Layers that are slices of one parameter."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 16, 16) / 4)
        self.o = nn.Linear(16, 3)

    def forward(self, x):
        h = self.a(x)
        for w in self.w:
            h = F.linear(h.relu(), w)
        return self.o(h)


class Halves(TwoOfOne):
    """Layers that are parts of one parameter."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(24, 16))

    def forward(self, x):
        first, second = self.w.chunk(2, 0)
        h = self.a(x).relu()
        return self.o(F.linear(h, first).relu() * F.linear(h, second))


class UsedElsewhere(TwoOfOne):
    """A weight that is computed by way of what something else reads, too."""

    def forward(self, x):
        twice = 2 * self.w
        return self.o(F.linear(self.a(x).relu(), twice.abs()) + twice.mean(1))


@pytest.mark.parametrize("kind", [TwoOfOne, Halves, UsedElsewhere])
def test_a_cut_of_channels_that_nobody_feels_changes_nothing(kind):
    """Of `a` eight channels are zero: whatever weights were folded, the function must stay what it was."""
    model = kind().double().eval()
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias):
            tensor[::2] = 0
    x = torch.randn(4, 8, dtype=torch.float64)
    pruned = prune.channels(model, x, widths={"a": 8})
    assert pruned.after["params"] < pruned.before["params"] and len(pruned.cuts.cuts) > 2
    close(pruned.model(x), model(x))
    again = prune.replay(copy.deepcopy(model), pruned.cuts)
    close(again(x), model(x))


@pytest.mark.parametrize("kind", [Stacked, Halves])
def test_parts_of_a_weight_are_no_other_weights(kind):
    model = kind().double().eval()
    pruned = prune.channels(model, torch.randn(4, 8, dtype=torch.float64), ratio=0.5)
    assert pruned.before["params"] == sum(p.numel() for p in model.parameters())
    assert "folded" not in " ".join(pruned.notes) and pruned.model.w.numel() < model.w.numel()


def test_a_decoder_that_looks_at_another_sequence(oracle):
    """Keys and values are projected by a part of one weight, queries by the other."""
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    target, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    pruned = prune.channels(nn.TransformerDecoder(layer, 2).eval(), (target, memory), ratio=0.5)
    assert pruned.after["params"] < 0.8 * pruned.before["params"]


class Filtered(nn.Module):
    """A blur by a filter that no parameter is behind."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.register_buffer("k", torch.tensor([[1.0, 2.0, 1.0]]).T @ torch.tensor([[1.0, 2.0, 1.0]]) / 16)

    def forward(self, x):
        x = self.one(x)
        return self.two(
            F.conv2d(x, torch.flip(self.k, [0, 1])[None, None].repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])
        )


def test_a_filter_without_parameters_is_no_weight_to_fold():
    pruned = prune.channels(Filtered().eval(), torch.randn(2, 3, 12, 12), widths={"one": 4})
    assert isinstance(pruned.model, Filtered) and pruned.model.one.out_channels == 4


class Larger(nn.Module):
    """The larger of two halves, feature by feature: LightCNN's activation."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(torch.max(*self.a(x).chunk(2, 1)) + torch.min(x[:, :1], x[:, 1:2]))


def test_the_larger_of_two_tensors_is_no_reduction(oracle):
    pruned = oracle(Larger(), torch.randn(2, 8), ratio=0.5)
    assert pruned.model.a.weight.shape == (16, 8) and pruned.model.b.weight.shape == (4, 8)


class Compiled(nn.Module):
    """Code that asks whether it is compiled, and a width in it that keeps it from following a cut."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.o, self.width = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3), width

    def forward(self, x):
        h = self.a(x).relu()
        h = h if torch.compiler.is_compiling() else h * 2
        return self.o(self.b(h.view(-1, self.width, 4).flatten(1)) if self.width else self.b(h))


def test_a_graph_that_is_not_the_model_is_never_delivered():
    model, x = Compiled(4).eval(), torch.randn(2, 8)
    assert "is not the model" in mistaken(model, prune.analyze(model, x).graph, x)
    with pytest.raises(SurgeryError, match=r"captured graph is not the model .*whether it is compiled"):
        prune.channels(model, x, ratio=0.5)
    assert mistaken(TwoOfOne().eval(), prune.analyze(TwoOfOne().eval(), x).graph, x) == ""


class Detector(nn.Module):
    """What training returns is not what evaluation returns, by the same parameters."""

    def __init__(self):
        super().__init__()
        self.stem, self.boxes, self.classes = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 32, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("bins", torch.arange(8.0).view(1, 8, 1, 1))

    def forward(self, x):
        features = self.stem(x).relu()
        boxes, classes = self.boxes(features), self.classes(features)
        if self.training:
            return boxes, classes
        places = boxes.unflatten(1, (4, 8)).softmax(2)
        return (places * self.bins).sum(2), classes.sigmoid()


def test_what_training_returns_keeps_its_shape_too():
    model, image = Detector(), torch.randn(2, 3, 8, 8)
    pruned = prune.channels(model, image, ratio=0.5)
    assert pruned.model.stem.out_channels == 4
    trained = [tuple(t.shape) for t in pruned.model.train()(image)]
    assert trained == [tuple(t.shape) for t in model.train()(image)] == [(2, 32, 6, 6), (2, 2, 6, 6)]


class Conditional(nn.Module):
    """Kernels of each sample's own: as many groups as samples."""

    def __init__(self):
        super().__init__()
        self.one, self.route, self.o = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), nn.Linear(6, 3)
        self.kernels = nn.Parameter(torch.randn(2, 6, 8, 3, 3))

    def forward(self, x):
        x = self.one(x).relu()
        b, c, h, w = x.shape
        kernel = torch.einsum("bk,koihw->boihw", self.route(x.mean((2, 3))).softmax(1), self.kernels)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernel.reshape(b * 6, c, 3, 3), groups=b)
        return self.o(x.view(b, 6, -1).mean(2))


def test_as_many_groups_as_samples():
    model, image = Conditional().eval(), torch.randn(2, 3, 8, 8)
    pruned = prune.channels(model, image, ratio=0.5, form="graph")
    assert pruned.after["params"] < pruned.before["params"]
    assert outputs(pruned.model, torch.randn(3, 3, 8, 8))[0].shape == (3, 3)


class Spectrum(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.one, self.two, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), how

    def forward(self, x):
        return self.two(torch.fft.fftn(self.one(x), **self.how).real)


@pytest.mark.parametrize(("how", "width"), [({}, 8), ({"s": (6, 6)}, 4), ({"dim": (2, 3)}, 4)])
def test_a_transform_of_all_axes_keeps_them(how, width):
    model = Spectrum(**how).eval()
    if width == 8:
        with pytest.raises(InfeasibleError, match="transforms this axis"):
            prune.channels(model, torch.randn(2, 3, 8, 8), ratio=0.5)
    else:
        assert prune.channels(model, torch.randn(2, 3, 8, 8), ratio=0.5).model.one.out_channels == width


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.o = nn.LSTM(6, 8, proj_size=4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.o(nn.functional.relu(self.rnn(x)[0]))


def test_a_projection_of_hidden_states_is_said_to_have_no_rule():
    with pytest.raises(InfeasibleError, match="no layer of this model has channels") as told:
        prune.channels(Projected().eval(), torch.randn(2, 5, 6), ratio=0.5)
    assert "mistake of paretune" not in str(told.value)


class Cells(nn.Module):
    """A recurrent cell in a loop, whose hidden states are made of a number in the code."""

    def __init__(self):
        super().__init__()
        self.cell, self.o = nn.LSTMCell(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 8)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.o(h)


def test_a_recurrent_cell_as_a_graph_trains_at_any_batch():
    model, x = Cells(), torch.randn(2, 4, 6)
    pruned = prune.channels(model, x, ratio=0.5)
    assert not isinstance(pruned.model, Cells) and "fixes its batch" not in " ".join(pruned.notes)
    pruned.model.train()(torch.randn(3, 4, 6)).sum().backward()
    assert all(p.grad is not None for p in pruned.model.parameters())


class Named(nn.Module):
    """Modules that have the names of a graph's own attributes, and keys that are Python's words."""

    def __init__(self, batch):
        super().__init__()
        self.meta, self.code, self.graph = nn.Linear(6, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.heads = nn.ModuleDict({"class": nn.Linear(8, 3), "box": nn.Linear(8, 4)})
        self.batch = batch

    def forward(self, x):
        x = self.graph(self.code(self.meta(x).relu())).relu()
        x = x.view(self.batch, 8) if self.batch else x
        return {name: head(x) for name, head in self.heads.items()}


@pytest.mark.parametrize("batch", [0, -1])
def test_names_that_a_graph_has_itself(batch, tmp_path):
    model, x = Named(batch).eval(), torch.randn(2, 6)
    pruned = prune.channels(model, x, ratio=0.5)
    assert isinstance(pruned.model, Named) == (batch == 0)
    assert ("calls meta as own__meta, code as own__code" in " ".join(pruned.notes)) == (batch != 0)
    again = prune.replay(copy.deepcopy(model), type(pruned.cuts).from_json(pruned.cuts.to_json()))
    again.load_state_dict(pruned.model.state_dict())
    for name, value in pruned.model(x).items():
        torch.testing.assert_close(again(x)[name], value)
    further = prune.channels(pruned.model, x, ratio=0.5)
    assert further.after["params"] < pruned.after["params"]
    prune.replay(prune.replay(copy.deepcopy(model), pruned.cuts), further.cuts)(x)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Written(nn.Module):
    """A width in the code, so that a cut gives the graph; `between` is what stands between the layers."""

    def __init__(self, between, dropped=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.drop, self.o, self.between = nn.Dropout2d(dropped), nn.Linear(8, 3), between
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        x = self.drop(self.b(self.between(self, self.norm(self.a(x)))).relu())
        return self.o(x.view(len(x), 8, -1).mean(2))


def counted(model, x):
    if model.training:
        model.mean += x.mean((0, 2, 3)).detach()
    return x - model.mean[:, None, None]


def frozen(model, x):
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (lambda model, x: x, ""),
        (lambda model, x: Sign.apply(x), "a.weight is another"),
        (counted, "mean is kept otherwise"),
        (lambda model, x: x + torch.randn_like(x) * model.training, "nothing in it is drawn at random"),
        (frozen, "a.weight gets a gradient, and has none in the code"),
    ],
)  # fmt: skip
def test_what_a_graph_does_otherwise_in_training_is_said(between, said):
    pruned = prune.channels(Written(between).eval(), torch.randn(2, 3, 8, 8), widths={"b": 4})
    notes = " ".join(pruned.notes)
    assert "captured graph, rewritten" in notes
    assert ("in training the graph is not what the model's code is" in notes) == bool(said) and said in notes


def test_whole_channels_are_dropped_as_before():
    pruned = prune.channels(Written(lambda model, x: x, 0.5).eval(), torch.randn(2, 3, 8, 8), widths={"a": 4})
    (drop,) = (module for module in pruned.model.modules() if isinstance(module, nn.Dropout2d))
    assert drop.p == 0.5 and "in training" not in " ".join(pruned.notes)
    again = prune.replay(Written(lambda model, x: x, 0.5), type(pruned.cuts).from_json(pruned.cuts.to_json()))
    assert any(isinstance(module, nn.Dropout2d) for module in again.modules())


def test_a_norm_that_was_frozen_alone_is_frozen_in_the_graph():
    model = Written(lambda model, x: x).train()
    model.norm.eval()
    pruned = prune.channels(model, torch.randn(2, 3, 8, 8), widths={"a": 4})
    assert pruned.model.training and not pruned.model.get_submodule("norm").training


def test_a_manifest_for_modules_that_are_not_made_yet():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    model(torch.randn(2, 6))
    cuts = prune.channels(model, torch.randn(2, 6), ratio=0.5).cuts
    with pytest.raises(SurgeryError, match=r"'0.weight' is made when the model first runs: run it once"):
        prune.replay(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3)), cuts)


class Resized(nn.Module):
    """A number that is as large as a width, and is another thing: of the images that training scales."""

    def __init__(self):
        super().__init__()
        self.image_size, self.width = 16, 8
        self.conv, self.o = nn.Conv2d(3, 16, 3), nn.Linear(16, 8)
        self.mix = nn.Linear(8, 3)

    def forward(self, x):
        if self.training:
            x = F.interpolate(x, size=(self.image_size, self.image_size))
        x = self.o(self.conv(x).mean((2, 3)))
        return self.mix(x.view(-1, self.width))


def test_a_number_that_may_be_something_else_stays_where_the_forward_needs_no_other():
    pruned = prune.channels(Resized().eval(), torch.randn(2, 3, 16, 16), ratio=0.5)
    assert (pruned.model.image_size, pruned.model.width) == (16, pruned.model.mix.in_features)
    assert pruned.model.conv.out_channels < 16


class Resting(nn.Module):
    """Its code speaks of `training`, so that it is run in train mode while it is looked at."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return F.dropout(self.b(self.norm(self.a(x)).relu()), 0.1, self.training)


def test_a_look_in_train_mode_leaves_the_statistics_as_they_were():
    model = Resting().eval()
    before = copy.deepcopy(model.state_dict())
    prune.channels(model, torch.randn(8, 6) + 3, ratio=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
