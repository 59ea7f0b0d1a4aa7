"""Activations that go: their lines and folds by hand, folded against unfolded, and everything after it."""

import copy
import json

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from paretune import masks, prune
from paretune._replaced import Line
from paretune._skip import Skip
from paretune.checkpoint import State
from paretune.cuts import Cuts, Replaced
from paretune.data import call
from paretune.distill import Distill
from paretune.errors import DataError, InfeasibleError, InputError, RecipeError, SurgeryError
from paretune.export import certify, export_onnx, save, strip
from paretune.prune import Activations, Channels
from paretune.prune._activations.activations import put
from paretune.prune._activations.compose import Layer, composed, layer_of, obstacle
from paretune.prune._activations.fold import built
from paretune.prune._activations.lines import Sums
from paretune.quantize import Static
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

ROWS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "epochs": 1, "lr": 1e-3}


def mlp(*more, act=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), act(), *more, nn.Linear(32, 8), act(), nn.Linear(8, 3)).eval()


def warmed(model, inputs=IMAGES):
    """Return the model with the running statistics of a batch norm that are not those of the beginning."""
    model.train()
    with torch.no_grad():
        for _ in range(5):
            call(model, inputs * 1.5 + 0.3)
    return model.eval()


def with_lines(model, pruned, inputs):
    """Return the model with the least-squares lines in place of what went, made anew and one after the other."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for name, _ in pruned.removed:
        seen = []
        handle = model.get_submodule(name).register_forward_hook(
            lambda module, args, out, seen=seen: seen.append((args[0].double(), out.double()))
        )
        with torch.no_grad():
            call(model, inputs)
        handle.remove()
        ((x, y),) = seen
        columns = [(t.movedim(1, -1) if t.dim() > 2 else t).flatten(0, -2).T for t in (x, y)]
        line = Line(x.shape[1], x.dim() - 2)
        for channel, (a, b) in enumerate(zip(*columns, strict=True)):
            design = torch.stack([a, torch.ones_like(a)], dim=1)
            slope, height = torch.linalg.lstsq(design, b[:, None]).solution.flatten()
            line.scale.data[channel], line.shift.data[channel] = slope.float(), height.float()
        put(model, name, line)
    return model


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_two_linear_layers_by_hand():
    """x = -1, 0, 1 through a ReLU is 0, 0, 1: the line is x / 2 + 1 / 3, and 2 (x / 2 + 1 / 3) + 1 = x + 5 / 3."""
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    for layer, weight, bias in ((first, 1.0, 0.0), (second, 2.0, 1.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    model, data = nn.Sequential(first, nn.ReLU(), second), torch.tensor([[-1.0], [0.0], [1.0]])
    pruned = prune.activations(model, data, data=data, count=1)
    assert [type(module) for module in pruned.model] == [nn.Linear, Skip, Skip]
    assert pruned.model[0].weight.item() == pytest.approx(1) and pruned.model[0].bias.item() == pytest.approx(
        5 / 3
    )
    assert pruned.before == {"macs": 2, "params": 4} and pruned.after == {"macs": 1, "params": 2}
    assert pruned.folds == (("0", "2"),) and pruned.notes == ()
    # outputs were 1, 1, 3 and are 2/3, 5/3, 8/3: (1/9 + 4/9 + 1/9) / 11
    ((name, error),) = pruned.removed
    assert name == "1" and error == pytest.approx(6 / 99) == pruned.alone["1"] and pruned.loss == 0
    assert type(model[1]) is nn.ReLU and first.weight.item() == 1


def test_kernels_by_hand():
    ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    layer = Layer(ones, torch.tensor([1.0], dtype=torch.float64), (1, 1), (0, 0), (1, 1))
    both = composed(layer, layer)
    row = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.equal(both.weight, torch.outer(row, row)[None, None]) and both.bias.tolist() == [1 * 9 + 1]
    point = Layer(torch.tensor([[[[2.0]]], [[[3.0]]]]).double(), torch.zeros(2).double(), (1, 1), (0, 0), (1, 1))
    wide = Layer(torch.ones(1, 2, 3, 3).double(), torch.zeros(1).double(), (1, 1), (1, 1), (1, 1))
    assert torch.equal(composed(point, wide).weight, 5 * ones) and composed(point, wide).padding == (1, 1)
    dilated = composed(layer, Layer(ones, layer.bias, (2, 2), (0, 0), (2, 2)))
    assert dilated.stride == (2, 2) and dilated.weight.shape[2:] == (7, 7)
    strided = composed(Layer(ones[..., :1, :1], layer.bias, (2, 2), (0, 0), (1, 1)), layer)
    assert strided.stride == (2, 2) and strided.dilation == (2, 2) and strided.kernel == (3, 3)


@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 2),
    strides=st.tuples(*[st.integers(1, 3)] * 2),
    dilations=st.tuples(*[st.integers(1, 3)] * 2),
    paddings=st.tuples(*[st.integers(0, 2)] * 2),
    groups=st.sampled_from([(1, 1), (4, 1), (1, 4), (4, 4), (2, 4), (4, 2)]),
    rank=st.integers(1, 2),
    biased=st.booleans(),
    seed=st.integers(0, 999),
)
def test_two_convolutions_are_one_where_nothing_forbids_it(
    sizes, strides, dilations, paddings, groups, rank, biased, seed
):
    generator = torch.Generator().manual_seed(seed)

    def layer(which, out, width):
        kernel = [sizes[which]] * rank
        return Layer(
            torch.randn(out, width // groups[which], *kernel, generator=generator, dtype=torch.float64),
            torch.randn(out, generator=generator, dtype=torch.float64) * (biased or which == 1),
            *((numbers[which],) * rank for numbers in (strides, paddings, dilations)),
            groups[which],
        )

    first, second = layer(0, 8, 4), layer(1, 4, 8)
    assume(not obstacle(first, second))
    x = torch.randn(2, 4, *[17] * rank, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        try:
            expected = built(second)(built(first)(x))
        except RuntimeError:  # the kernel is larger than what it reads
            assume(False)
        torch.testing.assert_close(built(composed(first, second))(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3, padding=1), "has a bias"),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, padding=1), "mixes places"),
        (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 2, 3, padding=1), "mixes places"),
        (nn.Linear(3, 4), nn.Conv2d(4, 2, 1), "one is linear"),
    ],
)
def test_what_forbids_one_layer_really_does(first, second, reason):
    near, far = layer_of(first), layer_of(second)
    assert reason in obstacle(near, far)
    if isinstance(first, nn.Conv2d):
        with torch.no_grad():
            merged, expected = built(composed(near, far))(IMAGES), second(first(IMAGES))
            assert merged.shape != expected.shape or not torch.allclose(merged, expected, atol=1e-3)


@given(st.integers(2, 40), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_lines_are_least_squares(count, batches, shifted, seed):
    x = torch.randn(batches, count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x + 1e4 * shifted
    sums = Sums(trailing=0)
    for part in x:
        sums.add(part, functional.silu(part - 1e4 * shifted))
    scale, shift = sums.line()
    for channel in range(2):
        a = x[..., channel].flatten()
        y = functional.silu(a - 1e4 * shifted)
        centred = a - a.mean()
        slope = (centred * (y - y.mean())).sum() / centred.square().sum()
        assert float(scale[channel]) == pytest.approx(float(slope), rel=1e-6, abs=1e-9)
        fitted = scale[channel] * a + shift[channel]
        assert float((fitted - y).mean()) == pytest.approx(0, abs=1e-6)


def test_a_channel_that_never_changes_gets_its_mean():
    sums = Sums(trailing=0)
    sums.add(torch.full((5, 1), 0.1), torch.full((5, 1), 0.7))
    (scale,), (shift,) = sums.line()
    assert float(scale) == 0 and float(shift) == pytest.approx(0.7)


def cnn():
    torch.manual_seed(0)
    return warmed(
        nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Conv2d(8, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=2),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
    )


def test_folded_is_unfolded():
    model = cnn()
    state = copy.deepcopy(model.state_dict())
    pruned = prune.activations(model, IMAGES[:1], data=IMAGES, count=4)
    assert pruned.alone.keys() == {"2", "5", "8", "10"} and len(pruned.removed) == 4
    with torch.no_grad():
        close(pruned.model(IMAGES), with_lines(model, pruned, IMAGES)(IMAGES))
    assert not any(isinstance(module, Line | nn.ReLU | nn.SiLU) for module in pruned.model.modules())
    assert isinstance(pruned.model[7], nn.BatchNorm2d)  # its line went into it
    assert any("nothing was folded around 8" in note and "pads with zeros" in note for note in pruned.notes)
    assert pruned.folds == (("0", "4", "6"),) and pruned.model[0].kernel_size == (5, 5)
    assert pruned.after["macs"] < pruned.before["macs"] and pruned.after["params"] < pruned.before["params"]
    assert isinstance(pruned.model[3], Skip)  # a dropout of what is no longer there
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in pruned.model.parameters())


@pytest.mark.parametrize(
    "act", [nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.PReLU]
)
def test_each_activation_goes(act):
    model = mlp(nn.BatchNorm1d(32), act=act)
    pruned = prune.activations(model, ROWS[:1], data=ROWS, count=2)
    assert len(pruned.removed) == 2
    with torch.no_grad():
        close(pruned.model(ROWS), with_lines(model, pruned, ROWS)(ROWS))
    assert isinstance(pruned.model[4], Skip)


@pytest.mark.parametrize("shape", [(64, 6), (16, 4, 6)])
def test_a_narrow_middle_stays_where_one_layer_would_take_more(shape):
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 8)), ROWS.reshape(-1)[:384].reshape(shape)
    places = 1 if len(shape) == 2 else 4
    pruned = prune.activations(model, data[:1], data=data, count=1)  # 12 + 16 for each row, and 48 as one layer
    assert pruned.folds == () and pruned.after == pruned.before and isinstance(pruned.model[1], Skip)
    message = f"{48 * places} multiply-accumulates instead of {28 * places}; fold='always'"
    assert any(message in note for note in pruned.notes)
    always = prune.activations(model, data[:1], data=data, count=1, fold="always")
    assert always.folds == (("0", "2"),) and always.after["macs"] == 48 * places
    with torch.no_grad():
        close(always.model(data), pruned.model(data))


def test_the_cheapest_goes_first_and_losses_are_those_of_the_data():
    model, labels = mlp(), ROWS[:, :3].argmax(1)
    pruned = prune.activations(model, ROWS[:1], data=(ROWS, labels), loss="cross_entropy", count=1)
    with torch.no_grad():
        assert pruned.loss == pytest.approx(float(functional.cross_entropy(model(ROWS), labels)), rel=1e-5)
        left = float(functional.cross_entropy(pruned.model(ROWS), labels))
    ((name, loss),) = pruned.removed
    assert loss == pytest.approx(left, rel=1e-4) == pytest.approx(min(pruned.alone.values()), rel=1e-4)
    assert pruned.alone[name] == min(pruned.alone.values())
    every = prune.activations(model, ROWS[:1], data=(ROWS, labels), loss="cross_entropy", max_loss=1e9)
    assert len(every.removed) == 2 and [type(m) for m in every.model] == [nn.Linear, *[Skip] * 4]
    middle = prune.activations(model, ROWS[:1], data=ROWS, max_loss=sorted(pruned.alone.values())[0] * 0)
    assert middle.removed == () and any("no activation was removed" in note for note in middle.notes)
    close(middle.model(ROWS), model(ROWS))


class Skipping(nn.Module):
    """What an activation reads or gives is read in the code as well."""

    def __init__(self, where):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)
        self.where = where

    def forward(self, x):
        h = self.first(x)
        a = self.act(h)
        if self.where == "before":
            return self.second(a) + h
        if self.where == "after":
            return self.second(a) * a.abs()
        if self.where == "returned":
            return self.second(a), a
        if self.where == "weight":
            return functional.linear(a, self.second.weight) + functional.linear(x, self.first.weight)
        return self.second(a.flip(1))


@pytest.mark.parametrize("where", ["before", "after", "returned", "weight", "between"])
def test_what_others_read_is_not_folded(where):
    torch.manual_seed(0)
    model = Skipping(where)
    pruned = prune.activations(model, ROWS[:1], data=ROWS, count=1)
    assert pruned.folds == () and type(pruned.model.second) is nn.Linear and pruned.notes
    assert isinstance(pruned.model.act, Line) == (where in ("before", "weight"))
    seen = {"before": "that it alone reads", "weight": "folded into first it would change the outputs"}
    assert seen.get(where, "on both sides that nothing else reads") in pruned.notes[0]
    with torch.no_grad():
        for mine, other in zip(pruned.model(ROWS), with_lines(model, pruned, ROWS)(ROWS), strict=True):
            close(mine, other)
    fresh = prune.replay(Skipping(where), pruned.cuts)
    fresh.load_state_dict(pruned.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh(ROWS), pruned.model(ROWS), strict=True))


def test_no_random_numbers_are_drawn():
    model = mlp()
    state = torch.random.get_rng_state()
    prune.activations(model, ROWS[:1], data=ROWS, count=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second = (prune.activations(model, ROWS[:1], data=ROWS, count=2, samples=32, seed=3) for _ in range(2))
    assert first.removed == second.removed and torch.equal(first.model[0].weight, second.model[0].weight)


def test_what_was_frozen_stays_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    pruned = prune.activations(model, ROWS[:1], data=ROWS, count=2)
    assert pruned.folds == (("0", "2", "4"),) and not any(p.requires_grad for p in pruned.model.parameters())


def test_tied_weights_are_not_folded():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second)
    pruned = prune.activations(model, ROWS[:1], data=ROWS, count=1)
    assert isinstance(pruned.model[1], Line) and pruned.model[0].weight is pruned.model[2].weight
    close(pruned.model(ROWS), with_lines(model, pruned, ROWS)(ROWS))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act, self.once, self.never = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.fc3(self.once(functional.relu(self.act(self.fc2(self.act(self.fc1(x)))))))


def test_what_cannot_go_says_why():
    pruned = prune.activations(Shared(), ROWS[:1], data=ROWS, count=1)
    rows = {name: (reason, remedy) for name, reason, remedy in pruned.unprunable}
    assert rows.keys() == {"act", "never", "relu()"}
    assert rows["act"][0] == "it is called 2 times" and "of its own for each call" in rows["act"][1]
    assert "never runs" in rows["never"][0] and "function in the code" in rows["relu()"][0]
    assert "self.relu = nn.ReLU()" in rows["relu()"][1]


def test_what_a_fused_layer_or_a_graph_computes_cannot_go():
    layer = nn.TransformerEncoderLayer(6, 2, 12, activation=nn.GELU(), batch_first=True).eval()
    with pytest.raises(InfeasibleError, match=r"0.activation: PyTorch's fused path .* without calling the module"):
        prune.activations(nn.Sequential(layer), ROWS[:1, None], data=ROWS[:, None], count=1)
    graph = prune.channels(mlp(), ROWS[:1], ratio=0.3, form="graph").model
    with pytest.raises(InfeasibleError, match=r"relu\(\): it is a function in the code"):
        prune.activations(graph, ROWS[:1], data=ROWS, count=1)


def test_what_has_no_weights_gets_a_line_too():
    pruned = prune.activations(nn.Sequential(nn.Flatten(), nn.ReLU()), ROWS, data=ROWS, count=1)
    assert isinstance(pruned.model[1], Line) and pruned.after["params"] == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_masks_and_parametrizations(dtype):
    model = mlp().to(dtype)
    nn.utils.parametrizations.weight_norm(model[2])
    pruned = prune.activations(model, ROWS[:1].to(dtype), data=ROWS.to(dtype), count=2)
    assert pruned.folds == (("0", "2", "4"),) and pruned.model[0].weight.dtype == dtype
    assert any("parametrizations of 2 were folded" in note for note in pruned.notes)
    masked = prune.weights(mlp(), ratio=0.5).model.train()
    result = prune.activations(masked, ROWS[:1], data=ROWS, count=1)
    assert result.model.training and len(result.folds) == 1


def test_what_is_written_in_place_and_read_after_it_is_refused():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)

        def forward(self, x):
            h = self.fc(x)
            return self.act(h) * 2 + h

    with pytest.raises(SurgeryError, match=r"reads what went into one after it ran\. Make them with"):
        prune.activations(Reads(), ROWS[:1], data=ROWS, count=1)


def test_replay_on_a_fresh_model_and_as_json():
    pruned = prune.activations(cnn(), IMAGES[:1], data=IMAGES, count=3, fold="always")
    manifest = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    fresh = prune.replay(cnn(), manifest)
    fresh.load_state_dict(pruned.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IMAGES), pruned.model(IMAGES))
    with pytest.raises(SurgeryError, match="applied already"):
        prune.replay(fresh, manifest)
    with pytest.raises(SurgeryError, match="another architecture"):
        prune.replay(mlp(), manifest)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("eval", {}),
        ("linear", {"in_features": 3}),
        ("linear", {"in_features": "os", "out_features": 1}),
        ("range", {"low": 2.0, "high": 1.0, "threshold": None}),
        ("line", {"channels": -1, "trailing": 0}),
    ],
)
def test_a_damaged_manifest_is_refused_and_changes_nothing(kind, arguments):
    model = mlp()
    with pytest.raises(SurgeryError, match=rf"is damaged: it puts a '{kind}' in the place of '1'"):
        prune.replay(model, Cuts(shapes={}, replaced=(Replaced("1", kind, arguments),)))
    assert type(model[1]) is nn.ReLU
    with pytest.raises(SurgeryError, match="has no module '11'"):
        prune.replay(model, Cuts(shapes={}, replaced=(Replaced("11", "line", {}),)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "exactly one of count and max_loss; got none"),
        ({"count": 1, "max_loss": 1.0}, "got both"),
        ({"count": 0}, "count=0 must be a whole number of at least 1"),
        ({"count": 3}, "count=3, and only 2 activations can go: 1, 3"),
        ({"max_loss": -1.0}, "max_loss=-1.0 must be a number of at least 0"),
        ({"max_loss": float("nan")}, "max_loss=nan must be"),
        ({"count": 1, "fold": "alway"}, r"fold='alway' must be one of auto, always\. Did you mean 'always'"),
        ({"count": 1, "protect": "11"}, "protect: '11' matches no activation"),
        ({"count": 1, "samples": 0}, "samples=0"),
        ({"count": 1, "seed": -1}, "seed=-1"),
        ({"count": 1, "loss": "cross_entropy"}, "a loss needs targets"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message):
        prune.activations(mlp(), ROWS[:1], data=ROWS, **how)


def test_data_that_the_model_does_not_take_are_told():
    for call_it in (prune.activations, prune.activation_range):
        how = {"count": 1} if call_it is prune.activations else {"high": 1.0}
        with pytest.raises(SurgeryError, match="does not accept the example input"):
            call_it(mlp(), ROWS[:1], data=torch.randn(4, 7), **how)
        with pytest.raises(DataError, match="yields nothing"):
            call_it(mlp(), ROWS[:1], data=[], **how)


def test_nothing_can_go():
    with pytest.raises(
        InfeasibleError, match="no activation module that runs once:\n  it has no activations at all"
    ):
        prune.activations(nn.Linear(6, 2), ROWS[:1], data=ROWS, count=1)
    with pytest.raises(InfeasibleError, match="all activations are protected: 1, 3"):
        prune.activations(mlp(), ROWS[:1], data=ROWS, count=1, protect="*")
    with pytest.raises(InfeasibleError, match="no longer finite"):
        prune.activations(mlp(), ROWS[:1], data=ROWS * float("nan"), count=1)


def folding_task():
    """A classifier of rows whose activations fold away, for the steps behind."""
    labels = (ROWS[:, 0] > 0).long() + (ROWS[:, 1] > 0).long()
    return Task(name="rows", model=mlp, train=(ROWS, labels), val=(ROWS, labels), batch_size=16)


@pytest.mark.parametrize("kind", ["rows", "digits"])
@pytest.mark.parametrize("order", ["channels first", "channels last"])
def test_composes(kind, order, trained_task, tmp_path):
    task = folding_task() if kind == "rows" else trained_task
    teacher = task.build().eval()
    steps = [
        Activations(recalibrate=64),
        Channels(ratio=0.3, recalibrate=64),
        Distill(**FIXED),
        Activations(count=1),
    ]
    if order == "channels first":
        steps = [steps[1], steps[0], *steps[2:]]
    model, cuts, context = task.build(), (), Context(teacher=teacher)
    for step in steps:
        result = step.apply(model, task, context)
        model, cuts = result.model, (*cuts, *result.cuts)
        assert json.dumps(result.details)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in teacher.parameters())
    State(model.state_dict(), cuts).save(tmp_path / "m.safetensors")
    loaded = State.load(tmp_path / "m.safetensors").onto(task.build()).eval()
    inputs = task.data("val").first(3)[0]
    with torch.no_grad():
        assert torch.equal(call(loaded, inputs), call(model.eval(), inputs))
    exported = export_onnx(loaded, task.inputs())
    assert sum(node.op_type == "Relu" for node in exported.graph.graph.node) == (0 if kind == "rows" else 2)
    save(strip(exported.graph), tmp_path / "float.onnx")
    assert certify(tmp_path / "float.onnx", loaded, task, kind="float", exported=exported, split=None).ok
    graph = Static(calibration=32).apply_graph(exported.graph, task, context)
    save(strip(graph), tmp_path / "int8.onnx")


def test_the_step(trained_task):
    (step,) = parse_recipe({"steps": [{"prune.activations": {"max_loss": 0.5}}]}).steps
    assert step == Activations(max_loss=0.5) and Activations().count == 1
    with pytest.raises(RecipeError, match="max_loss=-1"):
        parse_recipe({"steps": [{"prune.activations": {"max_loss": -1.0}}]})
    result = Activations(count=2, samples=64).apply(trained_task.build(), trained_task, Context())
    assert len(result.details["removed"]) == 2 and result.details["loss"] > 0
    plain = Task(name="plain", model=mlp, train=ROWS, val=ROWS)
    assert Activations(recalibrate=0).apply(mlp(), plain, Context()).details["loss"] == 0


def test_three_are_one_where_two_would_take_more():
    """1x1 to 12 channels, 3x3 depthwise, 1x1 to 2: in pairs they take more, all as one less."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 2, 1)
    ).eval()
    images = IMAGES[:, :2]
    pruned = prune.activations(model, images[:1], data=images, count=2)
    assert pruned.before["macs"] == 2 * 12 * 64 + (12 * 9 + 12 * 2) * 36
    assert pruned.after["macs"] == 2 * 2 * 9 * 36 and pruned.folds == (("0", "2", "4"),)
    with torch.no_grad():
        close(pruned.model(images), with_lines(model, pruned, images)(images))
    one = prune.activations(model, images[:1], data=images, count=1, protect="1")
    # 12 to 2 channels by 3x3 takes 12 * 2 * 9 * 36, and the two 12 * 9 * 36 + 12 * 2 * 36
    assert one.folds == () and any("would take 7776 multiply-accumulates instead of 4752" in n for n in one.notes)


@given(st.floats(-3, 3), st.integers(0, 99))
def test_a_line_through_a_zero_is_the_best_of_those(zero, seed):
    x = 2 + torch.randn(60, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sums = Sums(trailing=0)
    for part in x.split(20):
        sums.add(part, part.relu())
    (scale,), (shift,) = sums.line(torch.tensor([zero]))
    best = torch.linalg.lstsq(x - float(torch.tensor(zero)), x.relu()).solution
    assert float(scale) == pytest.approx(float(best), rel=1e-8) and float(scale * zero + shift) == pytest.approx(
        0, abs=1e-5
    )


def test_a_batch_norm_without_statistics_is_no_line():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    pruned = prune.activations(model, IMAGES[:2], data=IMAGES, count=1, exact_border=True)
    assert isinstance(pruned.model[2], Line) and pruned.folds == ()
    assert any("2 is a line in a module of its own" in note for note in pruned.notes)


class Inverted(nn.Module):
    def __init__(self, bias):
        super().__init__()
        layers = [nn.Conv2d(3, 12, 1, bias=bias), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=bias),
            nn.BatchNorm2d(12),
            nn.ReLU6(inplace=True),
        ]
        self.body = nn.Sequential(*layers, nn.Conv2d(12, 3, 1, bias=bias), nn.BatchNorm2d(3))

    def forward(self, x):
        return x + self.body(x)


@pytest.mark.parametrize("bias", [False, True])
def test_an_inverted_residual_is_one_padded_convolution(bias):
    torch.manual_seed(0)
    model = warmed(Inverted(bias))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    apart = prune.activations(model, IMAGES[:1], data=IMAGES, count=2)
    assert apart.folds == () and any("has a bias" in note for note in apart.notes)
    pruned = prune.activations(model, IMAGES[:1], data=IMAGES, count=2, exact_border=True)
    assert pruned.folds == (("body.0", "body.3", "body.6"),) and pruned.notes == ()
    assert pruned.model.body[0].padding == (1, 1) and pruned.after["macs"] == 3 * 3 * 9 * 64
    assert pruned.removed[-1][1] >= apart.removed[-1][1]
    with torch.no_grad():  # what was measured with the lines is what the merged model gives
        error = (pruned.model(IMAGES) - model(IMAGES)).square().sum() / model(IMAGES).square().sum()
    assert float(error) == pytest.approx(pruned.removed[-1][1], rel=1e-4)


def test_an_activation_under_two_names_stays():
    """Its forward goes by the second name, where nothing would be replaced."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.net = nn.Sequential(nn.Linear(6, 6), self.act, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, x):
            return self.net(x)

    made = prune.activations(Twice(), ROWS, data=ROWS, count=1)
    assert [name for name, _ in made.removed] == ["net.3"]
    assert ("act", "it is net.1 too") in {row[:2] for row in made.unprunable}
    ranged = prune.activation_range(Twice(), ROWS, data=ROWS, high=0.1)
    assert [row.activation for row in ranged.kept] == ["net.3"]


def test_branches_that_run_in_turns_are_two_chains():
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ModuleList([nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)])
            self.b = nn.ModuleList([nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)])

        def forward(self, x):
            a = b = x
            for left, right in zip(self.a, self.b, strict=True):
                a, b = left(a), right(b)
            return a + b

    made = prune.activations(Turns(), ROWS, data=ROWS, count=4)
    assert sorted(made.folds) == [("a.0", "a.2", "a.4"), ("b.0", "b.2", "b.4")]


def test_code_that_turns_its_inputs_into_float32():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, pixels):
            return self.net(pixels.float() / 255)

    pixels = torch.randint(0, 256, (64, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = prune.activations(Pixels(), pixels, data=pixels, count=2)
    assert made.folds and made.after["macs"] < made.before["macs"]


def test_random_states_and_masks_stay_as_they_were():
    model = prune.weights(mlp(nn.Linear(32, 32, bias=False)), ratio=0.5).model
    state = torch.get_rng_state()
    made = prune.activations(model, ROWS, data=ROWS, count=1, samples=16)
    prune.activation_range(model, ROWS, data=ROWS, high=1.0, samples=16)
    assert torch.equal(torch.get_rng_state(), state)
    first = made.model[0].weight
    assert "0.weight" in masks.masked(made.model) and torch.equal(first == 0, model[0].weight == 0)
