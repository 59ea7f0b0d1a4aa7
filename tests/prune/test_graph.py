"""The captured graph as a module: numbers per sample counted by hand, and any batch, structure and type."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from paretune.prune._capture.capture import capture
from paretune.prune._capture.graph import PerSample, named_arguments, numbers_per_sample, runnable

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Function(nn.Module):
    """A layer, and something on the sample's six numbers."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(6, 6), function

    def forward(self, x):
        return self.function(self.layer(x))


def module_of(model, example=X):
    captured = capture(model, example)
    return runnable(model, captured, numbers_per_sample(model, captured))


def found(function):
    """Return the numbers per sample in a graph, by name of the node, as (fixed, each)."""
    model = Function(function)
    numbers = numbers_per_sample(model, capture(model, X))
    if numbers is None:
        return None
    return {
        node.name: [(v.fixed, v.each) for v in flat(given) if isinstance(v, PerSample)]
        for node, given in numbers.items()
    }


def flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda x: x.view(x.shape[0], 2, 3).sum(1), {"view": [(0, 1)]}),
        (lambda x: x.view(x.shape[0] * 3, 2), {"view": [(0, 3)]}),
        (lambda x: x.view(-1, 3), {}),
        (lambda x: torch.cat([x.new_zeros(x.shape[0] + 1, 6), x]), {"new_zeros": [(1, 1)]}),
        (lambda x: x[: x.shape[0] - 1], {"slice_1": [(-1, 1)]}),
        (lambda x: x.new_zeros(2 * x.shape[0] + 3, 2), {"new_zeros": [(3, 2)]}),
        (lambda x: x.expand(4, -1, -1).reshape(4 * len(x), 6), {"reshape": [(0, 4)]}),
    ],
)
def test_numbers_that_follow_the_batch_and_by_how_much(function, numbers):
    assert found(function) == numbers
    model = Function(function)
    module = module_of(model)
    for batch in (1, 2, 5):
        torch.testing.assert_close(module(draw(batch, 6)), model(draw(batch, 6)))


def test_a_number_at_other_batches():
    assert [PerSample(3, 2).at(batch) for batch in (1, 2, 7)] == [5, 7, 17]
    assert PerSample(-1, 1).at(1) == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.stack([row * 2 for row in x]),  # a loop over the samples: as many nodes as samples
        lambda x: x.view(2, 6) * 2,  # the batch is written in the code
        lambda x: x * (len(x) / 3),  # a number that is no whole one
    ],
)
def test_where_the_batch_counts_in_another_way_the_graph_runs_at_its_own_alone(function):
    assert found(function) is None
    model = Function(function)
    torch.testing.assert_close(module_of(model)(X), model(X))


def test_no_batch_no_numbers():
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.scale * x + torch.zeros(3, device=x.device)

    model, x = Scalar(), torch.tensor(2.0)
    captured = capture(model, x)
    assert captured.batch is None and numbers_per_sample(model, captured) == {}
    assert torch.equal(runnable(model, captured, {})(x), torch.full((3,), 2.0))


def test_it_runs_on_the_very_parameters_and_buffers_of_the_model():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(torch.eye(4))
    module = module_of(model)
    assert module.get_parameter("0.weight") is model[0].weight
    assert module.get_buffer("1.running_var") is model[1].running_var
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[1].running_mean.add_(1)
    assert torch.equal(module(X), model.eval()(X)) and not module.training
    module(X).sum().backward()
    assert model[0].weight.grad is not None


def test_nodes_keep_their_names_so_that_they_can_be_looked_at():
    model = Function(torch.relu)
    captured = capture(model, X)
    module = runnable(model, captured, None)
    names = {node.name for node in module.graph.nodes}
    assert {node.name for node in captured.program.graph.nodes if node.op == "call_function"} <= names
    assert all(node.op == "get_attr" for node in module.graph.nodes if node.name.startswith("p_"))


def test_arguments_are_those_of_forward_by_position_and_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(4, 3)

        def forward(self, left, right, mask=None, extra=()):
            out = self.a(left) + self.b(right["inner"][0])
            return out if mask is None else out * mask

    model, right = Two(), {"inner": [draw(2, 4)]}
    module = module_of(model, (X, right))
    assert torch.equal(module(X, right), model(X, right))
    assert torch.equal(module(left=X, right=right), model(X, right))
    named = {"right": right, "left": X, "mask": torch.ones(2, 1)}
    assert torch.equal(module_of(model, named)(**named), model(**named))
    assert [name for name, _ in named_arguments(model, (X, right))] == ["left", "right"]
    assert named_arguments(model, named)[0] == ("right", right)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, [y + 1, {"deep": y + 2}]),
        lambda y: {"a": y, "b": (y,)},
        lambda y: OrderedDict(a=y, b=y + 1),
        lambda y: (y, None, 3),
    ],
)
def test_what_is_returned_has_the_structure_that_it_had(wrap):
    model = Function(wrap)
    expected, out = model(X), module_of(model)(X)
    assert type(out) is type(expected)
    torch.testing.assert_close(out, expected)


def test_what_writes_in_place_stays_and_what_nobody_reads_goes():
    def written(x):
        torch.sigmoid(x)
        y = x * 1
        y.add_(1)
        y[:, 0] = 5.0
        return y

    model = Function(written)
    module = module_of(model)
    assert torch.equal(module(X), model(X))
    names = [node.name for node in module.graph.nodes]
    assert "sigmoid" not in names and "add_" in names


def test_constants_of_the_code_belong_to_the_graph_and_are_no_state():
    model = Function(lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6]))
    module = module_of(model)
    assert torch.equal(module(X), model(X)) and set(module.state_dict()) == set(model.state_dict())
    wide = copy.deepcopy(module).double()
    assert wide(X.double()).dtype == torch.float64
