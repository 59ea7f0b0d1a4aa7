"""The rewritten graph: after a cut every number in it is the one counted by hand, and it trains as the model."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.cuts import Cuts, replay
from paretune.graphs import from_json, to_json
from paretune.prune._surgery.rewrite import rewrite
from paretune.prune._surgery.surgery import make_cuts

ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GONE, STAYS = [1, 4], [0, 2, 3, 5]


class Between(nn.Module):
    """A layer of 6 channels, something, and a layer that reads what comes out."""

    def __init__(self, function, width):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.function, self.b = nn.Linear(4, 6), function, nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def cut(model, example, gone):
    """Return the rewritten graph of a model that loses channels of its layer `a`, and what it was made from."""
    analysis = prune.analyze(model, example)
    state = analysis.couplings
    made = next(made for made in state.makes if made.tensor == "a.weight")
    factors = state.units.factors(made.units)  # a position goes with its block or with its place in every block
    places = {unit: np.flatnonzero((factors == unit).any(axis=1)) for unit in np.unique(factors[factors >= 0])}
    units = np.array([unit for unit, where in places.items() if set(where) <= set(gone)])
    assert (state.units.pinned(units) < 0).all()
    assert sorted(np.concatenate([places[unit] for unit in units])) == gone
    keep = analysis.keep(units)
    pruned = replay(copy.deepcopy(analysis.model), make_cuts(analysis.model, state, keep))
    return rewrite(pruned, analysis.captured, state, keep, analysis.numbers), pruned


def numbers(graph, name):
    """Return the whole numbers in the arguments of the one node of an operator; positions in a constant count."""
    (node,) = [n for n in graph.graph.nodes if n.op == "call_function" and f".{name}." in str(n.target)]
    found = []
    for given in [*node.args[1:], *node.kwargs.values()]:
        if isinstance(given, torch.fx.Node) and given.op == "get_attr":
            found.append(graph.get_buffer(given.target).tolist())
        elif isinstance(given, list | tuple):
            found.append(["n" if isinstance(item, torch.fx.Node) else item for item in given])
        elif type(given) is int:
            found.append(given)
    return found


@pytest.mark.parametrize(
    ("function", "gone", "places", "operator", "after"),
    [
        # 1 and 5 go: of 0 2 3 4, the old 1..4 are the new 1..3
        (lambda x: x[:, 1:5], [1, 5], [1, 2, 3], "slice", [1, 1, 4]),
        (lambda x: x[:, -3:], [0, 5], [0, 1], "slice", [1, 2, 4]),
        # 1 and 2 go: of 0 3 4 5, the old 0 and 4 are the new 0 and 2, which are no range
        (lambda x: x[:, ::2], [1, 2], [0, 2], "index_select", [1, [0, 2]]),
        (lambda x: torch.cat(x.split([2, 4], 1)[::-1], 1), [0, 3], [0, 2, 3, 5], "split_with_sizes", [[1, 3], 1]),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), [0, 1], [0, 1, 2, 5], "split_with_sizes", [[1, 3], 1]),
        # the shuffle gives 0 3 1 4 2 5; of 1 2 3 5 that is 3 1 2 5
        (
            lambda x: x.view(-1, 2, 3).transpose(1, 2).flatten(1),
            [0, 4],
            [1, 2, 4, 5],
            "index_select",
            [1, [2, 0, 1, 3]],
        ),
        (
            lambda x: F.channel_shuffle(x[..., None, None], 2).flatten(1),
            [0, 4],
            [1, 2, 4, 5],
            "index_select",
            [1, [2, 0, 1, 3]],
        ),
        (lambda x: x.view(-1, 2, 3).sum(1), [0, 3], [1, 2], "reshape", [[-1, 2, 2]]),
        (lambda x: x.view(len(x), 2, 3).sum(1), [0, 3], [1, 2], "reshape", [["n", 2, 2]]),
        (lambda x: x.unflatten(1, (2, 3)).sum(1), [0, 3], [1, 2], "unflatten", [1, [2, 2]]),
        (lambda x: x + x.new_full((6,), 2.0), GONE, STAYS, "new_full", [[4]]),
        (lambda x: x * torch.arange(6), GONE, STAYS, "index_select", [0, STAYS]),
        (
            lambda x: x[:, None].expand(-1, 2, 6).flatten(1),
            GONE,
            [0, 2, 3, 5, 6, 8, 9, 11],
            "expand",
            [[-1, 2, 4]],
        ),
        (lambda x: x.repeat_interleave(2, 1), GONE, [0, 1, 4, 5, 6, 7, 10, 11], "repeat_interleave", [2, 1]),
        (lambda x: F.pad(x, (2, 1), value=0.5), GONE, [0, 1, 2, 4, 5, 7, 8], "pad", [[2, 1]]),
        (lambda x: torch.cat([x.select(1, 3)[:, None], x], 1), GONE, [0, 1, 3, 4, 6], "select", [1, 2]),
        (lambda x: x[:, torch.tensor([5, 0, 0, 4, 2])], GONE, [0, 1, 2, 4], "index_select", [1, [3, 0, 0, 1]]),
    ],
)
def test_numbers_are_what_the_kept_positions_say(function, gone, places, operator, after):
    width = function(torch.zeros(1, 6)).shape[1]
    model = Between(function, width).double()
    graph, _ = cut(model, ROWS, gone)
    assert numbers(graph, operator) == after
    expected = F.linear(function(model.a(ROWS))[:, places], model.b.weight[:, places], model.b.bias)
    for batch in (1, 3):
        torch.testing.assert_close(graph(ROWS[:batch]), expected[:batch], rtol=0, atol=1e-12)


def test_an_axis_that_a_cut_brings_down_to_one_is_not_squeezed():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv1d(2, 2, 2)

        def forward(self, x):
            return self.b(self.a(x).squeeze())

    model, image = Squeezed().double(), torch.randn(2, 3, 1, 4, dtype=torch.float64)
    graph, _ = cut(model, image, [0])
    expected = F.conv1d(model.a(image).squeeze(2)[:, 1:], model.b.weight[:, 1:], model.b.bias)
    torch.testing.assert_close(graph(image), expected, rtol=0, atol=1e-12)


def double(x):
    x[:, ::2] *= 2
    return x


def shift_inside(x):
    x[:, ::2][:, 1:].mul_(3).add_(1)
    return x


def exchange(x):
    x[:, ::2] = x[:, 1::2] * 2
    return x


@pytest.mark.parametrize("function", [double, shift_inside])
def test_what_is_written_to_every_second_channel_stays_written(function):
    """Positions 1 and 4 of 6 go: what was a view in even steps is a copy then, of 0 and 2 among 0, 2, 3, 5."""
    model = Between(lambda x: function(x.clone()), 6).double()
    graph, _ = cut(model, ROWS, GONE)
    hidden = model.a(ROWS)
    hidden = function(hidden.clone())[:, STAYS]
    expected = hidden @ model.b.weight[:, STAYS].T + model.b.bias
    assert torch.allclose(graph(ROWS), expected, rtol=0, atol=1e-12)


def test_a_model_that_writes_to_every_second_channel_is_pruned_with_no_note_of_a_mistake():
    for function in (double, shift_inside, exchange):
        pruned = prune.channels(Between(function, 6).double(), ROWS, ratio=0.4, score="l1")
        assert pruned.widths["a"] < 6
        assert not any("mistake" in str(note) for note in pruned.notes)


def test_attention_keeps_the_scale_of_the_width_that_there_was():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.key, self.value = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 3)

        def forward(self, x):
            return F.scaled_dot_product_attention(self.a(x), self.key(x), self.value(x))

    model, tokens = Attention().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    graph, _ = cut(model, tokens, GONE)
    q, k = (layer(tokens)[..., STAYS] for layer in (model.a, model.key))
    expected = torch.softmax(q @ k.transpose(1, 2) / 6**0.5, -1) @ model.value(tokens)
    torch.testing.assert_close(graph(tokens), expected, rtol=0, atol=1e-12)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.deep = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.norm, self.drop, self.b = nn.BatchNorm2d(12), nn.Dropout(0.5), nn.Linear(12, 2)

    def forward(self, x):
        return self.b(self.drop(self.norm(self.deep(self.a(x)))).mean((2, 3)))


IMAGE = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_groups_of_a_depthwise_convolution():
    graph, pruned = cut(Image().double(), IMAGE, GONE)
    (node,) = [n for n in graph.graph.nodes if "conv2d" in str(n.target) and 4 in n.args]
    assert node.args[-1] == 4 and pruned.deep.weight.shape == (8, 1, 3, 3)
    torch.testing.assert_close(graph(IMAGE), pruned.eval()(IMAGE), rtol=0, atol=1e-12)


def test_batch_norm_and_dropout_train_as_they_do_in_the_module():
    graph, pruned = cut(Image().double(), IMAGE, GONE)
    module = copy.deepcopy(pruned)
    results = []
    for either in (graph, module):
        either.train()
        optimizer = torch.optim.SGD(either.parameters(), lr=0.1)
        for step in range(2):
            torch.manual_seed(step)
            either(IMAGE).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.manual_seed(5)
        results.append((either(IMAGE), either.eval()(IMAGE), either.state_dict()))
    (noisy, calm, state), (expected, quiet, other) = results
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(calm, quiet, rtol=0, atol=1e-12)
    assert not torch.allclose(noisy, calm) and torch.equal(calm, graph(IMAGE))
    assert int(state["norm.num_batches_tracked"]) == 3 and set(state) == set(other)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-12)
    assert graph.get_submodule("norm") is pruned.norm  # the model's own, with its momentum and its statistics


class NormAct(nn.BatchNorm2d):
    """As in timm, whose norms apply the activation too."""

    def forward(self, x):
        return F.silu(super().forward(x))


def test_a_norm_that_does_more_in_its_forward_does_it_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), NormAct(8, momentum=0.3), nn.Conv2d(8, 2, 1)).double().eval()
    pruned = prune.channels(model, IMAGE, ratio=0.5, form="graph")
    module = prune.channels(model, IMAGE, ratio=0.5, form="module").model
    for either in (pruned.model, replay(copy.deepcopy(model), Cuts.from_json(pruned.cuts.to_json()))):
        assert set(either.state_dict()) == set(module.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(either(IMAGE), module.eval()(IMAGE), rtol=0, atol=1e-12)
            twin = copy.deepcopy(module).train()
            torch.testing.assert_close(either.train()(IMAGE), twin(IMAGE), rtol=0, atol=1e-12)
        torch.testing.assert_close(dict(either.state_dict()), dict(twin.state_dict()), rtol=0, atol=1e-12)


def test_to_json_and_back_in_both_modes_and_at_any_batch():
    model = Image().double()
    graph, pruned = cut(model, IMAGE, GONE)
    own = [*dict(model.named_parameters()), *dict(model.named_buffers()), *dict(model.named_modules())]
    nodes = json.loads(json.dumps(to_json(graph, own)))
    again = from_json(copy.deepcopy(pruned).eval(), nodes)
    for batch in (1, 3):
        assert torch.equal(again(IMAGE[:batch]), graph(IMAGE[:batch]))
    for either in (graph.train(), again.train()):
        torch.manual_seed(0)
        either.result = either(IMAGE)
    assert torch.equal(graph.result, again.result)
    assert torch.equal(graph.norm.running_mean, again.norm.running_mean)


def test_tensors_that_the_code_makes_follow_the_model_to_another_type_and_device():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            x = self.rnn(x)[0] + torch.ones(6, dtype=x.dtype, device=x.device)
            return self.fc(x + torch.arange(5, device=x.device)[:, None])

    model, example = Recurrent(), torch.randn(2, 5, 3)
    pruned = prune.channels(model, example, ratio=0.5, form="graph")
    graph = prune.replay(copy.deepcopy(model), Cuts.from_json(pruned.cuts.to_json())).double()
    out = graph(example.double())
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), pruned.model(example))
    assert copy.deepcopy(graph).to("meta")(torch.zeros(7, 5, 3, device="meta", dtype=torch.float64)).shape == (
        7,
        5,
        2,
    )
