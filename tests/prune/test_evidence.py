"""The evidence that scores are given, against plain hooks and autograd on the model itself."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from paretune import prune
from paretune.errors import DataError, InputError, RunError
from paretune.prune import scores
from paretune.prune._couplings.parts import makers, norms, parts_of
from paretune.prune._evidence.evidence import evaluate, needs, role
from paretune.prune.scores._sparsegpt import inverse_diagonal


class Net(nn.Module):
    """Convolutions with batch norm, an in-place ReLU behind one, a shortcut, a flattened map, a linear head."""

    def __init__(self):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.c = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.mid, self.head = nn.Linear(8 * 4 * 4, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = self.b(self.relu(self.bn(self.a(x))))
        x = self.relu(x)
        x = x + self.c(x)
        return self.head(F.relu(self.mid(x.flatten(1))))


def made(seed=0):
    torch.manual_seed(seed)
    model = Net()
    with torch.no_grad():
        for tensor in (model.bn.weight, model.bn.running_mean):
            tensor.normal_()
        model.bn.running_var.uniform_(0.5, 2)
    return model


X = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (10,), generator=torch.Generator().manual_seed(2))


def by_tensor(analysis, score, **how):
    """Return {parameter: scores of the units on it, in the order of its axis}."""
    slices = {
        "makes": makers(analysis.groups),
        "reads": analysis.couplings.reads,
        "norms": norms(analysis.couplings),
    }[role(score)]
    parts = parts_of(analysis.couplings, analysis.groups, slices)
    found = {}
    for part, values in zip(parts, evaluate(analysis, parts, score, **how), strict=True):
        if values is not None:
            found[part.slice.tensor] = values[np.argsort(part.positions[:, 0].numpy(), kind="stable")]
    return found


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def analysis(model):
    return prune.analyze(model, X[:1])


def outputs_and_gradients(model, *layers):
    """What layers give for X in eval mode, and the gradient of the mean loss, by forward hooks."""
    model = copy.deepcopy(model).eval()
    seen = {}

    def hook(name):
        def keep(module, inputs, output):
            seen[name] = output
            output.retain_grad()
            return output.clone()  # an in-place ReLU may follow

        return keep

    for name in layers:
        model.get_submodule(name).register_forward_hook(hook(name))
    F.cross_entropy(model(X), Y).backward()
    return {name: (seen[name].detach(), seen[name].grad) for name in layers}, model


def close(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, np.asarray(expected.detach()), rtol=tolerance, atol=1e-7)


def test_gradients_of_what_layers_give_are_those_of_the_mean_loss_over_all_data(model, analysis):
    (expected, _) = outputs_and_gradients(model, "a", "b", "mid")
    found = by_tensor(analysis, scores.gradient_norm, data=(X, Y), loss="cross_entropy")
    for name, (_, gradient) in expected.items():
        close(found[f"{name}.weight"], gradient.abs().transpose(0, 1).flatten(1).sum(1))


@pytest.mark.parametrize("batch_size", [10, 4, 3])  # 4: batches of 4, 4 and 2
@pytest.mark.parametrize(
    "score",
    [
        scores.gradient_norm,
        scores.fisher,
        scores.snip,
        scores.grasp,
        scores.apoz,
        scores.wanda,
        scores.obc,
        scores.thinet,
        scores.sparsegpt,
    ],
)
def test_batches_of_any_size_give_what_one_batch_gives(analysis, score, batch_size):
    loader = torch.utils.data.DataLoader(TensorDataset(X, Y), batch_size=batch_size)
    found = by_tensor(analysis, score, data=loader, loss="cross_entropy")
    whole = by_tensor(analysis, score, data=iter([(X, Y)]), loss="cross_entropy")
    assert found and found.keys() == whole.keys()
    for name in found:
        np.testing.assert_allclose(found[name], whole[name], rtol=2e-3, atol=1e-6)


def test_gradients_of_weights(model, analysis):
    _, twin = outputs_and_gradients(model)
    found = by_tensor(analysis, scores.snip, data=(X, Y), loss=F.cross_entropy)
    for name in ("a.weight", "b.weight", "c.weight", "mid.weight"):
        parameter = twin.get_parameter(name)
        close(found[name], (parameter * parameter.grad).abs().flatten(1).sum(1))


def test_what_layers_give_times_its_gradient_sample_by_sample(model, analysis):
    expected, _ = outputs_and_gradients(model, "a", "b")
    for score, formula in (
        (scores.fisher, lambda a, g: (10 * (a * g).sum((2, 3))).square().sum(0) / 20),
        ({"taylor": {"of": "output"}}, lambda a, g: (a * g).sum((2, 3)).abs().sum(0)),
    ):
        function = prune._selection.selection.resolve_score(score) if isinstance(score, dict) else score
        found = by_tensor(analysis, function, data=(X, Y), loss="cross_entropy")
        for name, (output, gradient) in expected.items():
            close(found[f"{name}.weight"], formula(output, gradient))


def test_hessian_times_gradient_is_that_of_the_whole_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def loss(weight):
        return F.mse_loss(torch.func.functional_call(model, parameters | {"0.weight": weight}, x), y)

    weight = model[0].weight.detach()
    hessian = torch.func.hessian(loss)(weight).reshape(12, 12)
    product = (hessian @ torch.func.grad(loss)(weight).flatten()).reshape(4, 3)
    found = by_tensor(prune.analyze(model, x[:1]), scores.grasp, data=(x, y), loss="mse")
    close(found["0.weight"], (weight * product).sum(1), 1e-6)


def test_attention_has_a_second_derivative():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.qkv = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 18)

        def forward(self, x):
            q, k, v = self.qkv(self.down(F.gelu(self.up(x)))).chunk(3, -1)
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1)

    analysis = prune.analyze(Attention(), torch.randn(1, 5, 6))
    found = by_tensor(analysis, scores.grasp, data=(torch.randn(4, 5, 6), torch.randn(4, 6)), loss="mse")
    assert np.isfinite(found["up.weight"]).all() and np.abs(found["up.weight"]).sum() > 0


def test_what_a_reader_multiplies_is_its_unfolded_input(model, analysis):
    seen = {}
    twin = copy.deepcopy(model).eval()
    for name in ("b", "c", "mid", "head"):
        twin.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: inputs[0].detach().clone()})
        )
    twin(X)
    rows = F.unfold(seen["b"], 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 6 * 9)  # channel outermost
    moment = rows.T @ rows / len(X)
    weight = model.b.weight.detach()
    wanda = (weight.abs() * moment.diagonal().reshape(6, 3, 3).sqrt()).sum((0, 2, 3))
    close(by_tensor(analysis, scores.wanda, data=X)["b.weight"], wanda)
    found = by_tensor(analysis, scores.obc, data=X)
    close(found["b.weight"], scores.obc(weight.transpose(0, 1), moment), 1e-3)
    diagonal = inverse_diagonal(moment).reshape(6, 3, 3)
    close(by_tensor(analysis, scores.sparsegpt, data=X)["b.weight"], (weight**2 / diagonal).sum((0, 2, 3)), 1e-3)
    # a unit of the flattened map is a channel with its 16 places
    rows = seen["mid"]
    weight = model.mid.weight.detach().reshape(10, 8, 16).transpose(0, 1)  # (units, out, within)
    close(found["mid.weight"], scores.obc(weight, rows.T @ rows / len(X)), 1e-3)
    close(by_tensor(analysis, scores.apoz, data=X)["head.weight"], (seen["head"] != 0).float().mean(0))
    close(by_tensor(analysis, scores.apoz, data=X)["c.weight"], (seen["c"] != 0).float().mean((0, 2, 3)))


class Others(nn.Module):
    """Readers of other kinds: grouped and transposed convolution, matmul with a parameter, einsum."""

    def __init__(self):
        super().__init__()
        self.a, self.grouped = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 6, 3, groups=2)
        self.up = nn.ConvTranspose1d(6, 5, 3, stride=2, padding=1)
        self.w, self.v = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(3, 7))

    def forward(self, x):
        x = F.relu(self.up(F.relu(self.grouped(F.relu(self.a(x))))))
        return torch.einsum("btc,oc->bto", F.relu(x.transpose(1, 2) @ self.w), self.v).mean(1)


def test_readers_of_other_kinds():
    torch.manual_seed(0)
    model, x = Others(), torch.randn(4, 2, 12)
    analysis = prune.analyze(model, x[:1])
    a = F.relu(model.a(x))
    g = F.relu(model.grouped(a))
    u = F.relu(model.up(g)).transpose(1, 2)
    m = F.relu(u @ model.w)
    found = by_tensor(analysis, scores.wanda, data=x)
    norm = u.square().sum((0, 1)).div(4).sqrt()
    close(found["w"], (model.w.abs() * norm[:, None]).sum(1))
    close(found["v"], (model.v.abs() * m.square().sum((0, 1)).div(4).sqrt()).sum(0))
    # of the transposed convolution: every input is multiplied by the kernel's k-th weight where that output exists
    places = torch.zeros(6, 3)
    for k in range(3):
        at = [t for t in range(g.shape[2]) if 0 <= 2 * t + k - 1 < u.shape[1]]
        places[:, k] = g[:, :, at].square().sum((0, 2)).div(4).sqrt()
    close(found["up.weight"], (model.up.weight.abs() * places[:, None]).sum((1, 2)))


def test_a_grouped_convolution_is_read_block_by_block():
    torch.manual_seed(0)
    model, x = Others(), torch.randn(4, 2, 12)
    analysis = prune.analyze(model, x[:1])
    reads = [read for read in analysis.couplings.reads if read.tensor == "grouped.weight"]
    parts = parts_of(analysis.couplings, analysis.groups, reads)
    assert [(part.block, part.blocks) for part in parts] == [(0, 2), (1, 2)]
    a, weight = F.relu(model.a(x)).detach(), model.grouped.weight.detach()
    for part, values in zip(parts, evaluate(analysis, parts, scores.obc, data=x), strict=True):
        rows = a.chunk(2, 1)[part.block].unfold(2, 3, 1).permute(0, 2, 1, 3).reshape(-1, 12)
        own = weight.chunk(2)[part.block].transpose(0, 1)
        order = part.positions[:, 0]
        close(values, scores.obc(own, rows.T @ rows / 4)[order], 1e-3)


class Heads(nn.Module):
    """Self-attention with a fused qkv: units are heads, and places within all heads."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(5, 12), nn.Linear(12, 36), nn.Linear(12, 3)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(self.embed(x)).reshape(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)).mean(1)


def test_a_head_is_one_unit_with_all_its_rows_and_columns():
    torch.manual_seed(0)
    model, x = Heads(), torch.randn(6, 7, 5)
    analysis = prune.analyze(model, x[:1])
    heads = [i for i, g in enumerate(analysis.groups) if g.blocks.size == 3]
    assert heads
    for score, expected in (
        (scores.l1, model.qkv.weight.reshape(3, 3, 4, 12).abs().sum((0, 2, 3))),
        (scores.l2, model.qkv.weight.reshape(3, 3, 4, 12).square().sum((0, 2, 3)).sqrt()),
    ):
        parts = parts_of(analysis.couplings, analysis.groups, makers(analysis.groups))
        mine = [p for p in parts if p.group in heads and p.slice.tensor == "qkv.weight"]
        assert len(mine) == 1 and mine[0].positions.shape == (3, 12)
        close(evaluate(analysis, mine, score)[0], expected)
    parts = parts_of(analysis.couplings, analysis.groups, analysis.couplings.reads)
    mine = [p for p in parts if p.group in heads and p.slice.tensor == "out.weight"]
    seen = {}
    model.out.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0].detach()))
    model(x)
    rows = seen["x"].reshape(-1, 12)
    weight = model.out.weight.detach().reshape(3, 3, 4).transpose(0, 1)  # (heads, out, width)
    close(evaluate(analysis, mine, scores.obc, data=x)[0], scores.obc(weight, rows.T @ rows / 6), 1e-3)


def test_scales_of_norms(model, analysis):
    close(by_tensor(analysis, scores.bn_scale)["bn.weight"], model.bn.weight.abs())


def test_flow_through_a_chain_is_a_product_of_absolute_matrices():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)
    )
    first, second, third = (model[i].weight.detach().abs().double() for i in (0, 2, 4))
    before, after = first.sum(1), (third @ second).sum(0)  # what flows into and out of each hidden unit
    found = by_tensor(prune.analyze(model, torch.randn(1, 3)), scores.synflow)
    close(found["0.weight"], before * after / (before @ after), 1e-6)
    assert found["2.weight"].sum() == pytest.approx(1)


def test_flow_passes_norms_as_scales_whatever_their_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[1].running_mean.normal_(), model[1].running_var.uniform_(0.5, 2), model[1].weight.normal_()
    found = by_tensor(prune.analyze(model, torch.randn(1, 3)), scores.synflow)
    scale = (model[1].weight.abs() / (model[1].running_var + model[1].eps).sqrt()).detach()
    plain = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2))
    with torch.no_grad():
        plain[0].weight.copy_(model[0].weight.abs() * scale[:, None]), plain[0].bias.copy_(model[1].bias.abs())
        plain[1].weight.copy_(model[2].weight.abs()), plain[1].bias.copy_(model[2].bias.abs())
        plain[2].weight.copy_(model[4].weight.abs()), plain[2].bias.copy_(model[4].bias.abs())
    plain(torch.ones(1, 3)).sum().log().backward()
    close(found["2.weight"], (plain[1].weight * plain[1].weight.grad).sum(1))


def test_flow_takes_how_attention_mixes_as_given():
    torch.manual_seed(0)
    model, x = Heads(), torch.randn(1, 7, 5)
    found = by_tensor(prune.analyze(model, x), scores.synflow)
    # all places get the mean of equal values: the flow is that of a chain embed - value - out
    w, b = (
        {n: p.detach().abs().double() for n, p in model.named_parameters() if kind in n}
        for kind in ("weight", "bias")
    )
    chain = nn.Sequential(nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for layer, name, rows in zip(
            chain, ("embed", "qkv", "out"), (slice(None), slice(24, 36), slice(None)), strict=True
        ):
            layer.weight.copy_(w[f"{name}.weight"][rows]), layer.bias.copy_(b[f"{name}.bias"][rows])
    chain(torch.ones(1, 5).double()).sum().log().backward()
    close(found["embed.weight"], (chain[0].weight * chain[0].weight.grad).sum(1), 1e-6)


def test_a_second_derivative_that_is_lacking_is_said():
    model = nn.Sequential(nn.Linear(3, 4), nn.Hardsigmoid(), nn.Linear(4, 2))
    with pytest.raises(
        InputError, match=r"hessian_grad needs a second derivative that PyTorch lacks .*hardsigmoid"
    ):
        by_tensor(
            prune.analyze(model, torch.randn(1, 3)),
            scores.grasp,
            data=(torch.randn(4, 3), torch.randn(4, 2)),
            loss="mse",
        )


@pytest.mark.parametrize("score", [scores.taylor, scores.fisher, scores.grasp, scores.wanda, scores.synflow])
def test_the_model_is_as_it_was_and_so_is_the_random_state(score):
    model = made().train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.c.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    analysis = prune.analyze(model, X[:1])
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert by_tensor(analysis, score, data=(X, Y), loss="cross_entropy", samples=7)["b.weight"].any()
    assert torch.equal(torch.rand(1), drawn)
    assert model.training and model.bn.training and not model.c.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in model.parameters()) == len(list(model.parameters()))


def test_a_learned_loss_is_not_touched():
    criterion = nn.Linear(4, 1)
    by_tensor(
        prune.analyze(made(), X[:1]), scores.gradient_norm, data=(X, Y), loss=lambda o, t: criterion(o).mean()
    )
    assert criterion.weight.grad is None


def test_at_most_so_many_samples_drawn_by_the_seed(analysis):
    def seen(**how):
        return by_tensor(analysis, scores.wanda, data=X, **how)["b.weight"]

    assert not np.allclose(seen(samples=4), seen())
    assert not np.allclose(seen(samples=4), seen(samples=4, seed=1))
    assert np.array_equal(seen(samples=4), seen(samples=4))
    np.testing.assert_allclose(seen(samples=10), seen(), rtol=1e-5)


def test_a_list_of_batches_is_read_as_what_a_loader_of_them_gives():
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(12, 5)
    kept = [
        prune.channels(model, x[:2], ratio=0.5, score="wanda", data=data).model[0].weight
        for data in (
            (x,),
            [x[:6], x[6:]],
            [x[:4], x[4:8], x[8:]],
            [(x[:6], torch.zeros(6)), (x[6:], torch.zeros(6))],
        )
    ]
    assert all(torch.equal(kept[0], other) for other in kept[1:])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, left, right):
        return self.out((self.a(left) * self.b(right)).relu())


@pytest.mark.parametrize("named", [True, False])
def test_batches_of_all_that_the_model_takes_need_no_target(named):
    x, y, z = torch.randn(12, 5), torch.randn(12, 4), torch.zeros(6)
    model, halves = TwoInputs(), (slice(0, 6), slice(6, 12))
    if named:
        example = {"left": x[:2], "right": y[:2]}
        bare = [{"left": x[h], "right": y[h]} for h in halves]
        labelled = [batch | {"labels": z} for batch in bare]
    else:
        example, bare = (x[:2], y[:2]), [(x[h], y[h]) for h in halves]
        labelled = [(*batch, z) for batch in bare]
    loader = torch.utils.data.DataLoader(TensorDataset(x, y), batch_size=6)
    kept = [
        prune.channels(model, example, ratio=0.5, score="wanda", data=data).model.a.weight
        for data in (bare, labelled, iter(bare), *(() if named else (loader,)))
    ]
    assert all(torch.equal(kept[0], other) for other in kept[1:])


def test_a_graph_of_one_batch_size_is_fed_batches_of_that_size():
    class Pairs(nn.Module):
        """Takes two samples at a time, and no other number."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(F.relu(self.a(x.reshape(2, 3))))

    torch.manual_seed(0)
    model, x = Pairs(), torch.randn(9, 3)
    analysis = prune.analyze(model, x[:2])
    assert analysis.numbers is None
    found = by_tensor(analysis, scores.wanda, data=iter([x]))["b.weight"]
    hidden = F.relu(model.a(x[:8]))  # the ninth has no second
    close(found, (model.b.weight.abs() * hidden.square().mean(0).sqrt()).sum(0))
    with pytest.raises(DataError, match="yields no batch of 2 samples"):
        by_tensor(analysis, scores.wanda, data=iter([x[:1]]))


def test_keyword_inputs_and_outputs_in_a_dict():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, first, second):
            return {"logits": self.b(F.relu(self.a(first + second)))}

    torch.manual_seed(0)
    model, x, y = Keywords(), torch.randn(8, 3), torch.randint(0, 2, (8,))
    data = [{"first": row, "second": 2 * row, "labels": label} for row, label in zip(x, y, strict=True)]
    analysis = prune.analyze(model, {"first": x[:1], "second": x[:1]})
    found = by_tensor(analysis, scores.snip, data=data, loss="cross_entropy")["a.weight"]
    F.cross_entropy(model(x, 2 * x)["logits"], y).backward()
    close(found, (model.a.weight * model.a.weight.grad).abs().sum(1))
    with pytest.raises(InputError, match="data yields first, and the model was captured with first, second; give"):
        by_tensor(analysis, scores.apoz, data=[{"first": row, "labels": 0} for row in x])


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16()
    x = (100 * torch.randn(64, 4)).bfloat16()
    found = by_tensor(prune.analyze(model, x[:1]), scores.wanda, data=x)["2.weight"]
    hidden = model[1](model[0](x)).float()
    close(found, (model[2].weight.float().abs() * hidden.square().mean(0).sqrt()).sum(0), 1e-2)


def test_an_auxiliary_head_of_training_is_not_asked_for_what_it_gives():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            x = F.relu(self.a(x))
            return (self.b(x), self.aux(x)) if self.training else self.b(x)

    found = by_tensor(prune.analyze(Auxiliary(), torch.randn(2, 3)), scores.wanda, data=torch.randn(4, 3))
    assert list(found) == ["b.weight"]


@pytest.mark.parametrize(
    ("score", "how", "message"),
    [
        (scores.taylor, {}, "score 'taylor' needs grad, .*pass data .* and loss .one of cross_entropy"),
        (scores.taylor, {"data": X}, "needs grad, which is collected over data; pass loss"),
        (scores.apoz, {}, "score 'apoz' needs activation, .*pass data .what a Task takes"),
        (scores.snip, {"data": X, "loss": "mse"}, "data yields no target, and the loss needs one"),
        (scores.snip, {"data": (X, Y), "loss": "msee"}, "no loss 'msee'. Did you mean 'mse'"),
        (scores.snip, {"data": (X, Y), "loss": lambda o, t: o}, r"the loss has shape \(10, 4\)"),
        (scores.apoz, {"data": X[:, :, :4]}, r"shapes \[\(10, 3, 4, 8\)\], and the model was captured with"),
    ],
)
def test_missing_evidence_says_what_to_pass(analysis, score, how, message):
    with pytest.raises(InputError, match=message):
        by_tensor(analysis, score, **how)


def test_values_that_are_not_finite_are_an_error(analysis):
    with pytest.raises(RunError, match="loss is not finite"):
        by_tensor(analysis, scores.snip, data=(X * float("nan"), Y), loss="cross_entropy")
    with pytest.raises(RunError, match=r"score 'wanda' is not finite for .*\.weight: look for NaN"):
        by_tensor(analysis, scores.wanda, data=X * float("nan"))


def test_a_score_is_about_one_layer_and_one_time():
    assert role(scores.l1) == "makes" and role(scores.wanda) == "reads" and role(scores.bn_scale) == "norms"
    assert needs(scores.taylor) == ("weight", "grad")
    with pytest.raises(InputError, match="asks for output, activation, which is not all of one layer"):
        role(lambda output, activation: output)
    with pytest.raises(InputError, match="asks for output, which comes batch by batch, and for grad"):
        role(lambda output, grad: output)
    with pytest.raises(InputError, match=r"it asks for gradient; .*Did you mean 'grad'"):
        needs(lambda gradient: gradient)


def test_a_score_of_the_wrong_shape_is_refused(analysis):
    with pytest.raises(InputError, match=r"gave \(6, 3, 3, 3\) for 6 units of a.weight"):
        by_tensor(analysis, lambda weight: weight)


def test_collecting_warns_of_nothing(analysis):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_tensor(analysis, scores.fisher, data=(X, Y), loss="cross_entropy")


def test_of_many_positions_a_second_moment_takes_some(monkeypatch):
    """Of images of one colour each position says the same, so that any 5 of 64 give what all give."""
    from paretune.prune._evidence import collect

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(256, 2))
    analysis = prune.analyze(model, X[:1])
    widest = []

    def moment(hessian):
        widest.append(hessian)
        return hessian.diagonal()[:6]

    colours = X.mean((2, 3), keepdim=True).expand_as(X).contiguous()
    found = {}
    for name, images in (("colours", colours), ("noise", X)):
        for positions in (64, 5, 5.0):
            monkeypatch.setattr(collect, "POSITIONS", int(positions))
            reads = [read for read in analysis.couplings.reads if read.tensor == "2.weight"]
            parts = parts_of(analysis.couplings, analysis.groups, reads)
            evaluate(analysis, parts, moment, data=(images,), samples=None, seed=3)
            found[name, positions] = widest[-1]
    # sums of 64 or of 5 equal products in float32: up to 64 roundings of 6e-8
    torch.testing.assert_close(found["colours", 5], found["colours", 64], rtol=64 * 6e-8, atol=0)
    assert torch.equal(found["noise", 5], found["noise", 5.0])  # the same seed draws the same
    assert not torch.equal(found["noise", 5], found["noise", 64])
    torch.testing.assert_close(found["noise", 5], found["noise", 64], rtol=0.5, atol=10)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_second_moments_too(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.up, self.cells, self.head = nn.Linear(5, 8), kind(8, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.cells(self.up(x))[0])

    model, x = Recurrent(), torch.randn(16, 7, 5, generator=torch.Generator().manual_seed(1))
    for score in (None, "obc", "sparsegpt"):
        assert prune.channels(model, x[:1], macs=0.6, data=(x,), score=score).widths
