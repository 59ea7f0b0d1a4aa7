"""What a decomposition took apart is put together again: as a user calls it, and in a decomposed graph."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError
from paretune.prune._capture.capture import capture
from paretune.prune._couplings.rules import rule_of

aten = torch.ops.aten
MADE = {
    "convolution": "conv2d",
    "native_layer_norm": "layer_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_assert_tensor_metadata": "",
}
"""Operators without a rule: what they become; empty is a check of the graph, which gives no tensor."""


def test_every_operator_of_the_list_has_a_rule_or_becomes_one_that_has(shared):
    rows = re.findall(r"^\| `aten\.(\w+)\.?(\w*)` ", (shared / "operators.md").read_text(), re.MULTILINE)
    without = [name for name, overload in rows if not rule_of(getattr(getattr(aten, name), overload or "default"))]
    assert len(rows) > 100 and set(without) == set(MADE)
    assert all(rule_of(getattr(aten, name).default) for name in MADE.values() if name)


class Apart(nn.Module):
    """Layers called by what they are decomposed into."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)
        self.group, self.layer = nn.GroupNorm(1, 6), nn.LayerNorm(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        conv, norm, depth, up = self.conv, self.norm, self.depth, self.up
        x = torch.convolution(x, conv.weight, conv.bias, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)
        statistics = norm.running_mean, norm.running_var
        x = aten._native_batch_norm_legit_no_training(x, norm.weight, norm.bias, *statistics, 0.1, norm.eps)[0]
        x = torch.convolution(x, depth.weight, None, [1, 1], [2, 2], [2, 2], False, [0, 0], len(depth.weight))
        x = torch.convolution(x, up.weight, up.bias, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)
        space, group, layer = x.shape[2] * x.shape[3], self.group, self.layer
        x = torch.native_group_norm(x, group.weight, group.bias, x.shape[0], x.shape[1], space, 1, group.eps)[0]
        x = x.mean((2, 3))
        return self.fc(torch.native_layer_norm(x, [x.shape[1]], layer.weight, layer.bias, layer.eps)[0])


class Whole(Apart):
    """The same, by the layers."""

    def forward(self, x):
        x = self.group(self.up(self.depth(self.norm(self.conv(x)))))
        return self.fc(self.layer(x.mean((2, 3))))


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_layers_that_are_called_by_their_parts_lose_what_the_layers_do():
    whole = Whole().double().eval()
    cut = prune.channels(whole, IMAGE, widths={"conv": 4, "up": 3})
    apart = Apart().double().eval()
    apart.load_state_dict(whole.state_dict())
    same = prune.channels(apart, IMAGE, widths={"conv": 4, "up": 3})
    assert same.after == cut.after and cut.after["params"] < cut.before["params"] / 2
    torch.testing.assert_close(same.model(IMAGE), cut.model(IMAGE))


class Frozen(nn.Module):
    """A batch norm whose statistics are used in training, too. whose: by its own operator or another one."""

    def __init__(self, whose, eps=1e-2):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.norm.running_var.uniform_(0.1, 3.0)
        self.whose, self.eps = whose, eps

    def forward(self, x):
        norm, x = self.norm, self.conv(x)
        if self.whose == "operator":
            given = norm.weight, norm.bias, norm.running_mean, norm.running_var, 0.1, self.eps
            x = aten._native_batch_norm_legit_no_training(x, *given)[0]
        else:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, self.eps)
        return self.fc(x.view(len(x), 8, -1).mean(2))  # the 8 is why the result is a graph


@pytest.mark.parametrize("whose", ["operator", "function"])
def test_a_batch_norm_that_does_not_train_goes_on_not_to(whose):
    pruned = prune.channels(Frozen(whose).double().eval(), IMAGE, widths={"conv": 4})
    assert "captured graph" in " ".join(pruned.notes)
    quiet = pruned.model(IMAGE)
    before = pruned.model.get_buffer("norm.running_mean").clone()
    torch.testing.assert_close(pruned.model.train()(IMAGE), quiet, rtol=0, atol=0)
    assert torch.equal(pruned.model.get_buffer("norm.running_mean"), before)


class Instances(nn.Module):
    """Channels of all samples as groups of one sample."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.one(x)
        many = x.shape[0] * x.shape[1]
        x = torch.native_group_norm(x, None, None, 1, many, x.shape[2] * x.shape[3], many, 1e-5)[0]
        return self.two(x)


def test_groups_of_another_shape_than_the_input_are_no_group_norm():
    with pytest.raises(InfeasibleError, match="native_group_norm"):
        prune.channels(Instances().double().eval(), IMAGE, ratio=0.5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_decomposed_graph_is_cut_as_the_network_is():
    whole = Whole().double().eval()
    module = torch.export.export(whole, (IMAGE,)).run_decompositions().module()
    assert any(node.target is aten.convolution.default for node in module.graph.nodes)
    graph = prune.channels(torch.fx.GraphModule(module, module.graph), IMAGE, ratio=0.5)
    cut = prune.channels(whole, IMAGE, ratio=0.5)
    assert graph.after == cut.after and cut.after["params"] < cut.before["params"] / 2
    torch.testing.assert_close(graph.model(IMAGE), cut.model(IMAGE))


class Statistics(nn.Module):
    def forward(self, x):
        y, mean, _ = torch.native_layer_norm(x, [x.shape[-1]], None, None, 1e-5)
        return y + mean


def test_one_whose_other_results_are_read_stays():
    captured = capture(Statistics(), torch.randn(2, 4), known=lambda target: rule_of(target) is not None)
    assert any(node.target is aten.native_layer_norm.default for node in captured.program.graph.nodes)


class Written(nn.Module):
    """Features of which a part is written anew. bounds: along which axis, from where and up to where."""

    def __init__(self, *bounds):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.fc, self.bounds = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4), bounds

    def forward(self, x):
        dim, start, end = self.bounds
        part = self.two(x)[(slice(None),) * dim + (slice(start, end),)]
        return self.fc(torch.slice_scatter(self.one(x), part, *self.bounds))


WORDS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_what_is_written_to_a_range_has_its_other_axes(oracle):
    model = Written(1, 1, 3).double().eval()
    pruned = oracle(model, WORDS, widths={"one": 3})
    assert pruned.model.two.weight.shape == (3, 6) and pruned.model.fc.weight.shape == (4, 3)


def test_bounds_in_the_code_keep_the_axis_that_they_cut(oracle):
    pruned = oracle(Written(2, 1, 3), WORDS, ratio=0.9, matters=False)  # what of `two` nobody reads goes
    reasons = {name: reason for name, reason, _ in pruned.unprunable}
    assert "writes a range of this axis" in reasons["one"]
    assert pruned.model.fc.weight.shape == (4, 8) and pruned.model.one.weight.shape == (8, 6)


@pytest.mark.parametrize("end", [8, 100, 2**63 - 1])
def test_a_range_that_is_the_whole_axis_goes_with_it(oracle, end):
    pruned = oracle(Written(2, 0, end), WORDS, widths={"one": 3}, matters=False)  # nobody reads `one`
    assert pruned.model.two.weight.shape == (3, 6) and pruned.model.fc.weight.shape == (4, 3)


class Strided(nn.Module):
    """Memory that is read by strides, of a part of a tensor: of all that the tensor holds."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 4)

    def forward(self, x):
        both = torch.cat([self.one(x), self.two(x)], -1)
        return self.fc(both[..., 8:12].as_strided((x.shape[0], 5, 4), (80, 16, 1), 8))


def test_strides_in_the_code_keep_what_they_step_over():
    with pytest.raises(InfeasibleError) as told:
        prune.channels(Strided().eval(), WORDS.float(), ratio=0.5)
    assert str(told.value).count("reads memory by strides") == 2
