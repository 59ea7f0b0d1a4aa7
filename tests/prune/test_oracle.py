"""The oracle over random networks: a cut computes what the masked model computes, whatever the pattern."""

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError

OPERATIONS = (
    "conv",
    "grouped",
    "depthwise",
    "norm",
    "relu_",
    "add",
    "cat",
    "chunk",
    "gate",
    "pad",
    "slice",
    "again",
    "tied",
    "shuffle",
    "add_",
    "scale",
    "pool",
)


class Network(nn.Module):
    """A random network: each instruction takes earlier tensors of (N, C, 6, 6) and adds one."""

    def __init__(self, instructions, flatten):
        super().__init__()
        self.layers, self.steps, self.flatten = nn.ModuleDict(), [], flatten
        widths = [3]
        for op, a, b, size in instructions:
            self._add(op, a % len(widths), b % len(widths), size, widths)
        used = {index for _, sources, _ in self.steps for index in sources}
        self.ends = [index for index in range(len(widths)) if index not in used] or [len(widths) - 1]
        width = sum(widths[index] for index in self.ends)
        self.fc = nn.Linear(width * 9 if flatten else width, 4)

    def _conv(self, before, after, kernel=1, groups=1):
        name = f"l{len(self.layers)}"
        self.layers[name] = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups)
        return name

    def _add(self, op, a, b, size, widths):
        width, name = widths[a], None
        if op == "conv":
            name, width = self._conv(width, size, 3), size
        elif op == "grouped" and width % 2 == 0:
            name, width = self._conv(width, 2 * size, 1, 2), 2 * size
        elif op == "depthwise":
            name = self._conv(width, width, 3, width)
        elif op == "norm":
            name = f"l{len(self.layers)}"
            self.layers[name] = nn.BatchNorm2d(width)
        elif op == "scale":
            name = f"l{len(self.layers)}"
            self.layers[name] = nn.PReLU(width)
        elif op in ("add", "add_"):
            name = self._conv(widths[b], width)
        elif op == "cat":
            width += widths[b]
        elif op == "gate" and width % 2 == 0:
            width //= 2
        elif op == "pad":
            width += size
        elif op == "slice" and width > size:
            width -= size
        elif op in ("again", "tied"):
            name = self._conv(width, width)
            if op == "tied":
                other = self._conv(width, width)
                self.layers[other].weight = self.layers[name].weight
                size = int(other[1:])
        elif op in ("grouped", "gate", "slice") or (op in ("shuffle", "chunk") and width % 2):
            op = "pool"
        self.steps.append((op, (a, b) if op in ("add", "add_", "cat") else (a,), (name, size)))
        widths.append(width)

    def forward(self, x):
        tensors = [x]
        for op, sources, (name, size) in self.steps:
            value, layer = tensors[sources[0]], self.layers[name] if name else None
            tensors.append(self._run(op, value, tensors[sources[-1]], layer, size))
        x = torch.cat([tensors[index] for index in self.ends], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 3).flatten(1) if self.flatten else x.mean((2, 3)))

    def _run(self, op, value, other, layer, size):
        if op == "relu_":
            return F.relu_(value + 0)
        if op == "add":
            return torch.tanh(value + layer(other))
        if op == "add_":
            fresh = layer(other)
            fresh.add_(value)
            return fresh
        if op == "cat":
            return torch.cat([value, other], 1)
        if op == "chunk":
            return torch.cat(value.chunk(2, 1)[::-1], 1)
        if op == "gate":
            first, second = value.chunk(2, 1)
            return first * torch.sigmoid(second)
        if op == "pad":
            return F.pad(value, (0, 0, 0, 0, size // 2, size - size // 2))
        if op == "slice":
            return value[:, size:]
        if op == "again":
            return layer(torch.tanh(layer(value)))
        if op == "tied":
            return self.layers[f"l{size}"](torch.tanh(layer(value)))
        if op == "shuffle":
            n, c, h, w = value.shape
            return value.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if op == "pool":
            return F.max_pool2d(value, 3, 1, 1)
        return layer(value)


INSTRUCTION = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 20), st.integers(0, 20), st.integers(1, 5))


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(INSTRUCTION, min_size=2, max_size=9),
    st.booleans(),
    st.floats(0.1, 0.9),
    st.sampled_from(["global", "local"]),
)
def test_a_random_network_after_the_cut_is_the_masked_network(oracle, instructions, flatten, ratio, scope):
    network = Network([("conv", 0, 0, 5), *instructions], flatten)
    try:
        pruned = oracle(network, torch.randn(1, 3, 6, 6, dtype=torch.float64), ratio=ratio, scope=scope)
    except InfeasibleError as error:
        assert "l0" in str(error)  # every layer is listed with its reason
        return
    analysis = prune.analyze(network, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    counted = prune.analyze(pruned.model, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    assert analysis.macs == pruned.before["macs"] and counted.macs == pruned.after["macs"]
