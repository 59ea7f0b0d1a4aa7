"""What nobody reads is gone from a graph, also what writes in place; what somebody reads stays."""

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.prune._capture.unread import remove_unread

EXAMPLE = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))


class Select(nn.Module):
    """Two branches that a softmax chooses between, as in selective kernels."""

    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            for _ in range(2)
        )
        self.choose, self.head = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = torch.stack([path(x) for path in self.paths], 1)
        share = self.choose(x.sum(1).mean((2, 3), keepdim=True))
        return self.head((x * share.view(-1, 2, 8, 1, 1).softmax(1)).sum(1)).mean((2, 3))


def test_a_branch_that_was_cut_is_neither_run_nor_kept():
    torch.manual_seed(0)
    analysis = prune.analyze(Select().eval(), EXAMPLE)
    pruned = prune.cut(analysis, prune.select(analysis, ratio=0.5, scope="local"), form="graph")
    kept = {name.split(".")[1] for name in pruned.model.state_dict() if name.startswith("paths")}
    assert len(kept) == 1, "half of two branches"
    ran = [node for node in pruned.model.graph.nodes if "relu_" in str(node.target)]
    assert len(ran) == 1
    pruned.model.train()
    pruned.model(EXAMPLE).square().sum().backward()
    dead = [name for name, parameter in pruned.model.named_parameters() if parameter.grad is None]
    assert dead == []


def graph_of(build):
    """Return the names of what stays of a graph."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    own = {"norm": nn.BatchNorm2d(6), "drop": nn.Dropout()}
    graph.output(build(graph, x))
    remove_unread(graph, own)
    return [node.name for node in graph.nodes if node.op not in ("placeholder", "output")]


aten = torch.ops.aten


def _in_place(graph, value):
    return graph.call_function(aten.relu_.default, (value,))


def test_writing_into_what_nobody_reads_goes_with_it():
    def build(graph, x):
        one = _in_place(graph, graph.call_module("norm", (x,)))
        graph.call_function(aten.add_.Tensor, (one, x))
        _in_place(graph, graph.call_function(aten.mul.Tensor, (x, 2)))
        return x

    assert graph_of(build) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda graph, x: x,
        lambda graph, x: graph.call_function(aten.view.default, (x, [-1])),
        lambda graph, x: graph.call_function(aten.dropout.default, (x, 0.5, False)),
        lambda graph, x: graph.call_module("drop", (x,)),
        lambda graph, x: _in_place(graph, x),
    ],
    ids=["an input", "a view", "dropout", "a module", "what is the input already"],
)
def test_writing_into_what_may_be_the_input_stays(make):
    def build(graph, x):
        _in_place(graph, make(graph, x))
        return graph.call_function(aten.add.Tensor, (x, 1))

    assert "relu_" in " ".join(graph_of(build))


def test_writing_into_what_is_read_later_stays():
    def build(graph, x):
        norm = graph.call_module("norm", (x,))
        _in_place(graph, norm)
        return graph.call_function(aten.add.Tensor, (norm, 1))

    assert graph_of(build) == ["norm", "relu__default", "add_tensor"]
