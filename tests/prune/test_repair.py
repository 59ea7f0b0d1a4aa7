"""One-shot repair: exact where it can be, least squares where it cannot, and never worse than the cut."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.errors import DataError, InputError
from paretune.prune._repair import repair as _repair
from paretune.prune._repair import twins as _twins
from paretune.prune._repair.repair import repair
from paretune.prune._repair.ridge import Ridge
from paretune.recipe import Context

EXACT = 1e-12
"""A ridge that leaves an exact answer exact to 1e-6."""


def cut_and_repair(model, inputs, *, widths=None, scope="global", form="auto", data=None, **how):
    """Return (the cut model, the cut model repaired, what repair says)."""
    analysis = prune.analyze(model, inputs[:1])
    selection = prune.select(analysis, scope=scope, **({"widths": widths} if widths else {"ratio": 0.5}))
    cut = prune.cut(analysis, selection, form=form)
    bare = copy.deepcopy(cut.model)
    said = repair(analysis, selection, cut, (inputs,) if data is None else data, **how)
    return bare, cut.model, said


def outputs(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(inputs)


def gap(a, b):
    return float((a - b).abs().max() / a.abs().max())


def redundant(layer, groups=1, bias=True):
    """Make the last half of each group of what a layer gives a mixture of the first half, and a constant."""
    transposed = isinstance(layer, nn.modules.conv._ConvNd) and layer.transposed
    weight = layer.weight.detach().transpose(0, 1) if transposed else layer.weight.detach()
    for group in weight.chunk(groups):
        half = len(group) // 2
        group[half:] = 1e-3 * torch.tensordot(
            torch.randn(half, half, dtype=group.dtype), group[:half], 1
        )  # the least: it is what goes
    if layer.bias is not None and not bias:
        layer.bias.data.zero_()
    return layer


def test_a_twin_channel_is_replaced_by_its_other_half_by_hand():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    model[0].weight.data = torch.tensor([[1.0], [0.5]], dtype=torch.float64)  # h = (x, x / 2)
    model[1].weight.data = torch.tensor([[2.0, 6.0]], dtype=torch.float64)  # y = 2 h1 + 6 h2 = 5 x
    inputs = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]], dtype=torch.float64)
    _, repaired, said = cut_and_repair(model, inputs, widths={"0": 1}, ridge=EXACT)
    torch.testing.assert_close(repaired[1].weight.data, torch.tensor([[5.0]], dtype=torch.float64))
    (row,) = said.layers
    assert row.layer == "1" and row.before == pytest.approx(0.36) and row.after < 1e-15  # (3 x)^2 of (5 x)^2
    assert said.samples == 4 and said.left == ()


class Functional(nn.Module):
    """A layer with weights of its own, and a product of what it gives with a parameter."""

    def __init__(self, shape, product):
        super().__init__()
        self.first, self.weight, self.product = nn.Linear(4, 8), nn.Parameter(torch.randn(shape)), product

    def forward(self, x):
        return self.product(self.first(x), self.weight)


LAYERS = {
    "conv1d": ((4, 9), nn.Conv1d(4, 8, 3), nn.Conv1d(8, 5, 3, stride=2, padding=1)),
    "conv2d": (
        (4, 8, 7),
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(8, 5, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1)),
    ),
    "conv2d same": ((4, 6, 6), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 5, (2, 3), padding="same")),
    "conv2d grouped": ((4, 6, 6), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 3, groups=2)),
    "conv3d": ((2, 4, 5, 4), nn.Conv3d(2, 8, 1), nn.Conv3d(8, 5, (3, 1, 2))),
    "transposed": (
        (4, 5, 6),
        nn.Conv2d(4, 8, 1),
        nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1, output_padding=1),
    ),
    "transposed 1d": ((4, 9), nn.ConvTranspose1d(4, 8, 1), nn.ConvTranspose1d(8, 5, 4, dilation=2)),
    "transposed grouped": ((4, 5, 6), nn.Conv2d(4, 8, 1), nn.ConvTranspose2d(8, 6, 3, groups=2)),
    "linear": ((4,), nn.Linear(4, 8), nn.Linear(8, 5)),
    "linear over tokens": ((3, 4), nn.Linear(4, 8), nn.Linear(8, 5)),
}
PRODUCTS = {
    "matmul": ((8, 5), torch.matmul),
    "matmul left": ((5, 8), lambda h, w: w @ h.transpose(1, 2)),
    "transposed": ((5, 8), lambda h, w: h @ w.t()),
    "vector": ((8,), torch.matmul),
    "einsum": ((3, 8, 2), lambda h, w: torch.einsum("ntk,hkd->nhtd", h, w)),
    "einsum of shared": ((6, 8, 2), lambda h, w: torch.einsum("ntk,tkd->ntd", h, w)),
    "tensordot": ((2, 8, 3), lambda h, w: torch.tensordot(h, w, dims=([2], [1]))),
    "bmm": ((6, 8, 2), lambda h, w: torch.bmm(h.transpose(0, 1), w)),
    "addmm": ((8, 5), lambda h, w: torch.addmm(torch.ones(5, dtype=h.dtype), h[:, 0], w)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_the_kept_channels_determine_is_restored_exactly(name):
    torch.manual_seed(0)
    shape, first, second = LAYERS[name]
    border = "padding" in repr(second) or "Transpose" in repr(
        second
    )  # constants end there, and cannot be replaced
    first = redundant(copy.deepcopy(first), getattr(second, "groups", 1), bias=not border)
    model = nn.Sequential(first, copy.deepcopy(second)).double()
    inputs = torch.randn(96, *shape, dtype=torch.float64)
    bare, repaired, said = cut_and_repair(model, inputs, widths={"0": 4}, ridge=EXACT)
    assert [row.layer for row in said.layers] == ["1"] and said.left == ()
    fresh = torch.randn(5, *shape, dtype=torch.float64)
    assert gap(outputs(model, fresh), outputs(bare, fresh)) > 1e-4
    assert gap(outputs(model, fresh), outputs(repaired, fresh)) < 1e-6


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_a_parameter_are_restored_exactly(name):
    torch.manual_seed(0)
    model = Functional(*PRODUCTS[name]).double()
    redundant(model.first, bias=False)
    inputs = torch.randn(96, 6, 4, dtype=torch.float64)
    bare, repaired, said = cut_and_repair(model, inputs, widths={"first": 4}, ridge=EXACT)
    assert [row.layer for row in said.layers] == ["weight"] and said.left == ()
    fresh = torch.randn(96, 6, 4, dtype=torch.float64)
    assert gap(outputs(model, fresh), outputs(bare, fresh)) > 1e-4
    assert gap(outputs(model, fresh), outputs(repaired, fresh)) < 1e-6


class Intercepts(nn.Module):
    """Layers without a bias, with something behind them that takes a constant."""

    def __init__(self, behind):
        super().__init__()
        self.first, self.second = redundant(nn.Conv2d(3, 6, 1)), nn.Conv2d(6, 4, 3, bias=False)
        self.behind = {"norm": nn.BatchNorm2d(4), "nothing": nn.Identity()}[behind]

    def forward(self, x):
        return self.behind(self.second(self.first(x)))


@pytest.mark.parametrize("behind", ["norm", "nothing"])
def test_an_intercept_goes_into_the_mean_of_the_batch_norm_behind(behind):
    torch.manual_seed(0)
    model = Intercepts(behind).double()
    if behind == "norm":
        model.behind.running_mean.normal_()
        model.behind.running_var.uniform_(0.5, 2)
        model.behind.weight.data.normal_()
    inputs = torch.randn(64, 3, 5, 5, dtype=torch.float64)
    bare, repaired, _ = cut_and_repair(model, inputs, widths={"first": 3}, ridge=EXACT)
    left = gap(outputs(model, inputs), outputs(repaired, inputs))
    if behind == "norm":
        assert left < 1e-6
        assert not torch.equal(repaired.behind.running_mean, model.behind.running_mean)
        assert not torch.equal(repaired.behind.weight, model.behind.weight)  # with it what is read is rescaled
    else:  # without an intercept the removed constants cannot be replaced, and what is done is still the best
        assert 1e-3 < left < gap(outputs(model, inputs), outputs(bare, inputs))


class Shifted(Functional):
    def __init__(self):
        super().__init__((8, 5), torch.matmul)
        self.shift = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return super().forward(x) + self.shift


def test_a_vector_added_behind_a_product_takes_the_intercept():
    torch.manual_seed(0)
    model = Shifted().double()
    redundant(model.first)
    inputs = torch.randn(96, 6, 4, dtype=torch.float64)
    _, repaired, _ = cut_and_repair(model, inputs, widths={"first": 4}, ridge=EXACT)
    assert gap(outputs(model, inputs), outputs(repaired, inputs)) < 1e-6
    assert not torch.equal(repaired.shift, model.shift)


class Mlp(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, width), nn.Linear(width, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))


def test_weights_are_those_of_an_independent_least_squares_layer_after_layer():
    torch.manual_seed(0)
    model, inputs = Mlp().double(), torch.randn(200, 5, dtype=torch.float64)
    widths = {"fc1": 6, "fc2": 4}
    bare, repaired, said = cut_and_repair(model, inputs, widths=widths, ridge=EXACT)
    assert [row.layer for row in said.layers] == ["fc2", "fc3"]

    def least_squares(x, y):
        ones = torch.ones(len(x), 1, dtype=x.dtype)
        solution = torch.linalg.lstsq(torch.cat([x, ones], 1), y).solution
        return solution[:-1].T, solution[-1]

    with torch.no_grad():
        stays = [int((model.fc2.bias == b).nonzero()) for b in bare.fc2.bias]
        whole = torch.relu(model.fc1(inputs))
        read = torch.relu(bare.fc1(inputs))  # fc1 makes channels and is not repaired
        weight, bias = least_squares(read, model.fc2(whole)[:, stays])
        torch.testing.assert_close(repaired.fc2.weight.data, weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(repaired.fc2.bias.data, bias, rtol=1e-6, atol=1e-8)
        read = torch.tanh(read @ weight.T + bias)  # what the repaired layer before it gives
        weight, bias = least_squares(read, model(inputs))
        torch.testing.assert_close(repaired.fc3.weight.data, weight, rtol=1e-5, atol=1e-7)


def test_layers_behind_make_up_for_the_error_that_reaches_them_unless_told_not_to():
    torch.manual_seed(1)
    model, inputs = Mlp().double(), torch.randn(300, 5, dtype=torch.float64)
    left = {}
    for every in (True, False):
        _, repaired, said = cut_and_repair(model, inputs, widths={"fc1": 6}, ridge=EXACT, every=every)
        assert [row.layer for row in said.layers] == ["fc2", "fc3"][: 1 + every]
        left[every] = float((outputs(model, inputs) - outputs(repaired, inputs)).square().mean())
    assert left[True] < left[False]


def test_what_is_said_of_a_layer_is_what_its_outputs_show():
    torch.manual_seed(1)
    model, inputs = Mlp().double(), torch.randn(300, 5, dtype=torch.float64)
    bare, repaired, said = cut_and_repair(model, inputs, widths={"fc1": 6})
    with torch.no_grad():
        wanted = model.fc2(torch.relu(model.fc1(inputs)))
        total = wanted.var(0, correction=0).sum()
        for told, cut in ((said.layers[0].before, bare), (said.layers[0].after, repaired)):
            given_ = cut.fc2(torch.relu(cut.fc1(inputs)))
            assert told == pytest.approx(float((wanted - given_).square().mean(0).sum() / total), rel=1e-6)


class Residual(nn.Module):
    """One branch with weights that serve two layers and so stay as they are, one that makes up for it."""

    def __init__(self, first, inplace):
        super().__init__()
        self.wide, self.tied, self.again = (
            nn.Linear(4, 8),
            nn.Linear(8, 4, bias=False),
            nn.Linear(8, 4, bias=False),
        )
        self.again.weight = self.tied.weight
        self.narrow, self.norm, self.first, self.inplace = nn.Linear(4, 4), nn.BatchNorm1d(4), first, inplace

    def forward(self, x):
        h = self.wide(x)
        if self.first:
            side = self.tied(h)
            main = self.norm(self.narrow(x))
        else:
            main = self.norm(self.narrow(x))
            side = self.tied(h)
        main = main.mul_(2) if self.inplace else main * 2
        main += side
        return main, self.again(h)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_branch_makes_up_for_the_error_of_the_other(first, inplace):
    torch.manual_seed(0)
    model = Residual(first, inplace).double()
    model.norm.running_var.fill_(3.0)
    model.norm.weight.data = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)
    inputs = torch.randn(64, 4, dtype=torch.float64)
    bare, repaired, said = cut_and_repair(model, inputs, widths={"wide": 4}, ridge=EXACT, every=True)
    assert [name for name, _ in said.left] == ["tied"]
    assert "used more than once" in said.left[0][1]
    assert torch.equal(repaired.tied.weight, bare.tied.weight)
    whole, before, after = (outputs(m, inputs) for m in (model, bare, repaired))
    if first:  # all that went is linear in x, which the other branch reads
        assert [row.layer for row in said.layers] == ["narrow"]
        assert gap(whole[0], before[0]) > 1e-2
        assert gap(whole[0], after[0]) < 1e-6
    else:  # the layer comes before anything was cut
        assert said.layers == () and torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


class Residuals(nn.Module):
    """Blocks as in networks: batch norm, in-place activations and sums, a branch with a layer of its own."""

    def __init__(self, inplace=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block1, self.block2 = self._block(8, 8), self._block(8, 12)
        self.side = nn.Conv2d(8, 12, 1)
        self.head, self.inplace = nn.Linear(12, 4), inplace

    def _block(self, before, after):
        first, second = (
            nn.Conv2d(before, 10, 3, padding=1, bias=False),
            nn.Conv2d(10, after, 3, padding=1, bias=False),
        )
        return nn.ModuleList([first, nn.BatchNorm2d(10), second, nn.BatchNorm2d(after)])

    def _run(self, block, x, side):
        out = F.relu(block[1](block[0](x)), inplace=self.inplace)
        out = block[3](block[2](out))
        side = side(x)
        if self.inplace:
            out += side
        else:
            out = out + side
        return F.relu(out, inplace=self.inplace)

    def forward(self, x):
        x = self._run(self.block1, F.relu(self.stem(x), inplace=self.inplace), nn.Identity())
        return self.head(self._run(self.block2, x, self.side).mean((2, 3)))


def networks():
    torch.manual_seed(0)
    model = Residuals().double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1, 1)
                module.bias.normal_()
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model, torch.randn(48, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("every", [False, True])
def test_writing_in_place_changes_nothing(every):
    model, inputs = networks()
    apart = copy.deepcopy(model)
    apart.inplace = False
    first = cut_and_repair(model, inputs, every=every, scope="local")
    second = cut_and_repair(apart, inputs, every=every, scope="local")
    assert first[2] == second[2] and len(first[2].layers) >= 4
    for name, tensor in first[1].state_dict().items():
        torch.testing.assert_close(tensor, second[1].state_dict()[name])


@pytest.mark.parametrize("held", [0, 100_000])
def test_what_waits_in_memory_changes_nothing(held, monkeypatch):
    model, inputs = networks()
    data = [(part, None) for part in inputs.split(16)]
    _, expected, said = cut_and_repair(model, inputs, data=iter(data), every=True)
    monkeypatch.setattr(_twins, "HELD", held)
    _, repaired, again = cut_and_repair(model, inputs, data=iter(data), every=True)
    assert again == said and said.samples == 48
    for name, tensor in repaired.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name])


def test_the_memory_format_of_the_weights_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 3)).double()
    inputs = torch.randn(32, 2, 5, 5, dtype=torch.float64)
    cut, repaired, _ = cut_and_repair(model, inputs)
    _, other, _ = cut_and_repair(copy.deepcopy(model).to(memory_format=torch.channels_last), inputs)
    assert not torch.equal(cut[2].weight, repaired[2].weight)
    torch.testing.assert_close(other[2].weight, repaired[2].weight, rtol=0, atol=1e-9)


def test_the_graph_form_gets_the_same_weights():
    model, inputs = networks()
    _, as_module, said = cut_and_repair(model, inputs)
    _, as_graph, again = cut_and_repair(model, inputs, form="graph")
    assert said == again
    for name, tensor in as_module.named_parameters():
        assert torch.equal(tensor, as_graph.get_parameter(name))
    torch.testing.assert_close(outputs(as_module, inputs), outputs(as_graph, inputs))


def test_a_repaired_network_computes_what_the_masked_one_was_fitted_to():
    """The errors that are told are measured on the masked model; here they are measured on the pruned one."""
    model, inputs = networks()
    bare, repaired, said = cut_and_repair(model, inputs, every=True)
    assert said.layers[-1].layer == "head"
    with torch.no_grad():
        wanted = model.eval()(inputs)
        left = (wanted - repaired.eval()(inputs)).square().mean(0).sum() / wanted.var(0, correction=0).sum()
    assert float(left) == pytest.approx(said.layers[-1].after, rel=1e-6)
    assert float(left) < float((wanted - outputs(bare, inputs)).square().mean(0).sum() / wanted.var(0).sum())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([None, 1e-9, 1e-2, 10.0]), st.booleans())
def test_no_output_of_a_layer_is_worse_than_after_the_cut(seed, samples, ridge, every):
    torch.manual_seed(seed)
    model, inputs = Mlp(10), torch.randn(samples, 5)
    _, repaired, said = cut_and_repair(model, inputs, ridge=ridge, every=every)
    assert all(row.after <= row.before for row in said.layers)
    assert all(torch.isfinite(parameter).all() for parameter in repaired.parameters())


def test_the_given_model_and_the_random_state_are_not_touched():
    model, inputs = networks()
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    cut_and_repair(model, inputs, every=True)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_same_seed_gives_the_same_repair_and_reloads():
    model, inputs = networks()
    analysis = prune.analyze(model, inputs[:1])
    selection = prune.select(analysis, ratio=0.5)
    cuts = []
    for _ in range(2):
        cut = prune.cut(analysis, selection)
        repair(analysis, selection, cut, (inputs, torch.zeros(48)), samples=20, seed=3)
        cuts.append(cut)
    assert all(torch.equal(a, b) for a, b in zip(*(c.model.state_dict().values() for c in cuts), strict=True))
    fresh = prune.replay(copy.deepcopy(model), cuts[0].cuts)
    fresh.load_state_dict(cuts[0].model.state_dict())
    assert torch.equal(outputs(fresh, inputs), outputs(cuts[0].model, inputs))


def test_a_recurrent_layer_is_named_with_the_reason():
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.lstm, self.last = nn.Linear(4, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.lstm(self.first(x))[0])

    model, inputs = Recurrent(), torch.randn(32, 5, 4)
    _, _, said = cut_and_repair(model, inputs, widths={"first": 4})
    assert [row.layer for row in said.layers] == ["last"]  # it makes up for what the LSTM could not
    assert said.left == (("lstm.weight_ih_l0", "lstm does more with its weights than multiply what it reads"),)


def test_a_model_that_fixes_its_batch_is_repaired_at_that_batch():
    torch.manual_seed(0)

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = redundant(nn.Linear(4, 8)), nn.Linear(8, 3)

        def forward(self, x):
            return torch.stack([self.last(self.first(sample)) for sample in x])

    model = Loop().double()
    inputs = torch.randn(41, 4, dtype=torch.float64)
    analysis = prune.analyze(model, inputs[:2])
    selection = prune.select(analysis, widths={"first": 4})
    cut = prune.cut(analysis, selection)
    said = repair(analysis, selection, cut, (inputs,), ridge=EXACT)
    assert said.layers == () and said.left[0][0] == "last"  # it is used once a sample


def test_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(redundant(nn.Linear(4, 8)), nn.Linear(8, 3)).bfloat16()
    inputs = torch.randn(256, 4).bfloat16()
    _, repaired, said = cut_and_repair(model, inputs, widths={"0": 4})
    assert repaired[1].weight.dtype == torch.bfloat16
    assert said.layers[0].after < 0.01 * said.layers[0].before


def test_too_little_data_is_an_error():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            a, b = x  # exactly two samples
            return self.last(self.first(torch.stack([a, b])))

    analysis = prune.analyze(Fixed(), torch.randn(2, 4))
    selection = prune.select(analysis, widths={"first": 4})
    with pytest.raises(DataError, match="no batch of 2 samples"):
        repair(analysis, selection, prune.cut(analysis, selection), (torch.randn(1, 4),))


def test_data_are_used_unless_that_is_refused_and_are_needed_where_it_is_asked_for():
    torch.manual_seed(0)
    model, inputs = Mlp(), torch.randn(600, 5)
    bare = prune.channels(model, inputs[:1], ratio=0.5, score="l1")
    refused = prune.channels(model, inputs[:1], ratio=0.5, score="l1", data=(inputs,), repair=False)
    taken = prune.channels(model, inputs[:1], ratio=0.5, score="l1", data=(inputs,))
    fewer = prune.channels(model, inputs[:1], ratio=0.5, score="l1", data=(inputs,), samples=40)
    assert torch.equal(refused.model.fc3.weight, bare.model.fc3.weight) and refused.notes == bare.notes == ()
    assert not torch.equal(taken.model.fc3.weight, bare.model.fc3.weight)
    assert taken.notes == ("2 layers were repaired in closed form on 512 samples",)
    assert fewer.notes == ("2 layers were repaired in closed form on 40 samples",)
    with pytest.raises(InputError, match="repair=True needs calibration inputs: pass data="):
        prune.channels(model, inputs[:1], ratio=0.5, repair=True)


def test_the_step_repairs_on_its_own_number_of_training_samples(tiny_task):
    step = prune.Channels(ratio=0.5, repair=32, samples=8)
    done = step.apply(tiny_task.build(), tiny_task, Context(seed=3))
    assert "repaired in closed form on 32 samples" in done.notes[-1]
    analysis = step.analyze(tiny_task.build(), tiny_task)
    selection = step.select(analysis, tiny_task, Context(seed=3))
    cut = prune.cut(analysis, selection)
    bare = copy.deepcopy(cut.model.state_dict())
    repair(analysis, selection, cut, tiny_task.data("train"), samples=32, seed=3)
    changed = [name for name, tensor in cut.model.state_dict().items() if not torch.equal(tensor, bare[name])]
    assert changed
    for name, tensor in cut.model.state_dict().items():
        assert torch.equal(done.model.state_dict()[name], tensor)


def test_no_more_rows_than_the_bound_are_drawn(monkeypatch):
    counts = []

    class Counting(Ridge):
        def add(self, x, r):
            counts.append(x.shape[1])
            super().add(x, r)

    monkeypatch.setattr(_repair, "Ridge", Counting)
    monkeypatch.setattr(_repair, "ROWS", 60)
    model, inputs = networks()
    data = [(part, None) for part in inputs.split(16)]  # 3 batches of 16 images, 36 places each
    _, _, said = cut_and_repair(model, inputs, data=iter(data))
    convolutions = [row.layer for row in said.layers if row.layer != "head"]
    assert counts == [20] * (3 * len(convolutions)) + [16] * 3  # the head reads one row an image
