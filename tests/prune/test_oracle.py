"""The oracle over random networks: a cut computes what the masked model computes, whatever the pattern.

`ORACLE_EXAMPLES=300` searches wider, here and now.
"""

import os
from functools import partial
from random import Random

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, SurgeryError

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "0"))
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
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


@settings(max_examples=EXAMPLES or 10, deadline=None, suppress_health_check=CHECKS)
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


class Rms(nn.Module):
    """RMS norm over the last axis, written out."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Norm2d(nn.Module):
    """Layer norm over the channels of an image, as ConvNeXt writes it out."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


OVER = {nn.LayerNorm: -1, nn.RMSNorm: -1, Rms: -1, nn.GroupNorm: 1, Norm2d: 1}


class Block(nn.Module):
    """One block of the zoo below: takes the width and extent of what comes in, two numbers that choose."""

    def __init__(self, width, extent, a, b):
        super().__init__()
        self.width, self.extent = width, extent
        self.build(width, a, b)


class Conv(Block):
    def build(self, width, a, b):
        self.width = 2 + b
        self.conv = nn.Conv2d(width, self.width, 3, padding=1, bias=a % 2 == 0)
        groups = 2 if self.width % 2 == 0 else 1
        norms = (nn.BatchNorm2d, Norm2d, partial(nn.GroupNorm, groups), nn.InstanceNorm2d)
        self.norm = norms[a % 4](self.width)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)), inplace=True)


class Residual(Block):
    def build(self, width, a, b):
        self.a, self.b = nn.Conv2d(width, 2 + b, 3, padding=1), nn.Conv2d(2 + b, width, 1)
        self.norm = (nn.BatchNorm2d, Norm2d)[a % 2](2 + b)
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))  # layer scale

    def forward(self, x):
        return x + self.gamma * self.b(F.gelu(self.norm(self.a(x))))


class Dense(Block):
    def build(self, width, a, b):
        self.conv, self.width = nn.Conv2d(width, 1 + b % 5, 1), width + 1 + b % 5

    def forward(self, x):
        return torch.cat([self.conv(x), torch.tanh(x)], 1)


class Gate(Block):
    def build(self, width, a, b):
        self.width, self.a = 1 + b, a
        self.conv = nn.Conv2d(width, 2 * self.width, 1)

    def forward(self, x):
        x = self.conv(x)
        if self.a % 3 == 0:
            return F.glu(x, 1)
        value, gate = x.chunk(2, 1) if self.a % 3 == 1 else x.split([self.width, self.width], 1)
        return value * torch.sigmoid(gate)


class Parts(Block):
    """Two unlike parts, one of them through a layer, joined the other way round."""

    def build(self, width, a, b):
        self.first = 1 + a % max(1, width - 1)
        self.conv, self.width = nn.Conv2d(self.first, 1 + b, 1), width - self.first + 1 + b

    def forward(self, x):
        first, second = x.split([self.first, x.shape[1] - self.first], 1)
        return torch.cat([second, self.conv(first)], 1)


class Shuffle(Block):
    """Grouped convolutions with their channels dealt out between the groups (ShuffleNet)."""

    def build(self, width, a, b):
        groups, self.groups = (1 if width % 2 else 2), 2 + a % 2
        self.width = 2 * self.groups * (1 + b % 3)
        self.a = nn.Conv2d(width, self.width, 1, groups=groups)
        self.b = nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.groups)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.b(x)


class Depthwise(Block):
    def build(self, width, a, b):
        times = 1 + a % 2
        self.deep = nn.Conv2d(width, times * width, 3, padding=1, groups=width)
        self.width, self.point = 2 + b, nn.Conv2d(times * width, 2 + b, 1)

    def forward(self, x):
        return F.hardswish(self.point(self.deep(x)))


class Transposed(Block):
    def build(self, width, a, b):
        groups = (1, 2, width)[a % 3]
        groups = groups if width % groups == 0 else 1
        self.width = groups * (1 + b % 4) if groups < width or width == 1 else width
        self.conv = nn.ConvTranspose2d(width, self.width, 3, padding=1, groups=groups)

    def forward(self, x):
        return torch.tanh(self.conv(x))


class Pixels(Block):
    def build(self, width, a, b):
        self.conv, self.width = nn.Conv2d(width, 4 * (1 + b % 4), 1), 4 * (1 + b % 4)

    def forward(self, x):
        return F.pixel_unshuffle(F.tanh(F.pixel_shuffle(self.conv(x), 2)), 2)


class Squeeze(Block):
    """Squeeze and excitation."""

    def build(self, width, a, b):
        self.down, self.up = nn.Linear(width, 1 + b), nn.Linear(1 + b, width)

    def forward(self, x):
        weights = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * weights[..., None, None]


class Tied(Block):
    """One weight in two layers, and a layer that runs twice."""

    def build(self, width, a, b):
        self.a, self.b = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1, bias=False)
        if a % 2:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Windows(Block):
    """Attention inside windows of 2 x 2 pixels, which hide among the samples, with a relative bias (Swin)."""

    def build(self, width, a, b):
        self.heads, self.qkv = 2, nn.Linear(width, 3 * 2 * (1 + b % 4))
        self.proj, self.table = nn.Linear(2 * (1 + b % 4), width), nn.Parameter(torch.zeros(9, 2))
        place = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        between = place[:, None] - place[None] + 1
        self.register_buffer("index", between[..., 0] * 3 + between[..., 1])

    def forward(self, x):
        n, c, h, w = x.shape
        short, x = x, x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        q, k, v = self.qkv(x).reshape(len(x), 4, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        x = ((q @ k.transpose(-2, -1) * 0.5 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.proj(x).view(n, h // 2, w // 2, 2, 2, c)
        return short + x.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


IMAGES = (Conv, Residual, Dense, Gate, Parts, Shuffle, Depthwise, Transposed, Pixels, Squeeze, Tied, Windows)


class Attention(Block):
    """Fused or separate, with grouped key-value heads, by the fused operator or written out."""

    def build(self, width, a, b):
        self.how, self.heads, self.size = a % 5, 2 * (1 + b % 2), 1 + b % 3
        inner, groups = self.heads * self.size, self.heads // 2
        self.norm = (nn.LayerNorm, Rms)[b % 2](width)
        if self.how in (0, 1):
            self.qkv = nn.Linear(width, 3 * inner)
        else:
            self.query = nn.Linear(width, inner)
            self.key, self.value = nn.Linear(width, groups * self.size), nn.Linear(width, groups * self.size)
        self.proj = nn.Linear(inner, width)

    def forward(self, x):
        n, t, _ = x.shape
        h = self.norm(x)
        if self.how == 0:
            q, k, v = self.qkv(h).reshape(n, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        elif self.how == 1:
            q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in self.qkv(h).chunk(3, -1))
        else:
            q, k, v = (f(h).view(n, t, -1, self.size).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.how == 2:
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        elif self.how == 3:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            h = torch.softmax(q @ k.transpose(2, 3) * self.size**-0.5, -1) @ v
        elif self.how == 4:
            k, v = (y[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for y in (k, v))
            h = F.scaled_dot_product_attention(q, k, v)
        else:
            h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(h.transpose(1, 2).reshape(n, t, -1))


class Multihead(Block):
    def build(self, width, a, b):
        heads = next(h for h in (4, 2, 3, 1) if width % h == 0)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


class Mlp(Block):
    def build(self, width, a, b):
        self.gated = a % 2
        self.norm, self.gamma = (nn.LayerNorm, nn.RMSNorm)[b % 2](width), nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, (2 + b) * (1 + self.gated)), nn.Linear(2 + b, width)

    def forward(self, x):
        h = self.up(self.norm(x))
        if self.gated:
            value, gate = h.chunk(2, -1)
            h = F.silu(gate) * value
        return x + self.gamma * self.down(F.gelu(h))


class Mixer(Block):
    """Layers over the tokens (MLP-Mixer), or a gate that one half gets from the other's tokens (gMLP)."""

    def build(self, width, a, b):
        self.gate = a % 2
        if self.gate:
            self.up, self.norm = nn.Linear(width, 2 * (1 + b)), nn.LayerNorm(1 + b)
            self.over, self.down = nn.Conv1d(self.extent, self.extent, 1), nn.Linear(1 + b, width)
        else:
            self.up, self.down = nn.Linear(self.extent, 1 + b), nn.Linear(1 + b, self.extent)

    def forward(self, x):
        if not self.gate:
            return x + self.down(F.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)
        value, gate = self.up(x).chunk(2, -1)
        return x + self.down(value * self.over(self.norm(gate)))


class Tokens(Block):
    """A class token in front, and what tells the positions apart."""

    def build(self, width, a, b):
        self.extent += 1
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, self.extent, width))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position


class Matrix(Block):
    def build(self, width, a, b):
        self.a, self.width = a % 2, 2 + b
        self.matrix = nn.Parameter(torch.zeros(width, self.width))

    def forward(self, x):
        return torch.einsum("btd,de->bte", x, self.matrix) if self.a else torch.tanh(x @ self.matrix)


class Recurrent(Block):
    def build(self, width, a, b):
        kind = nn.LSTM if a % 2 else nn.GRU
        self.rnn = kind(width, 2 + b // 2, num_layers=1 + a % 2, bidirectional=b % 2 == 1, batch_first=True)
        self.width = (2 + b // 2) * (1 + b % 2)

    def forward(self, x):
        return self.rnn(x)[0]


class Over(Block):
    """A convolution along the tokens."""

    def build(self, width, a, b):
        self.conv, self.width = nn.Conv1d(width, 2 + b, 3, padding=1), 2 + b

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


SEQUENCES = (Attention, Attention, Multihead, Mlp, Mixer, Tokens, Matrix, Recurrent, Over)


class Rich(nn.Module):
    """Blocks at random: images, tokens that are made of them, or words, and a head that reads what is left."""

    def __init__(self, start, blocks, end):
        super().__init__()
        self.start, self.end, self.blocks, self.steps = start, end, nn.ModuleList(), []
        image, width, extent = start in ("image", "patches"), 3, 4
        if start == "words":
            self.embed, width, extent = nn.Embedding(9, 8), 8, 5
        for a, b in blocks:
            if image and start == "patches" and len(self.steps) == len(blocks) // 2:
                image, extent = False, extent**2
                self.steps.append("flatten" if a % 2 else "reshape")
            kinds = IMAGES if image else SEQUENCES
            block = kinds[a % len(kinds)](width, extent, a // len(kinds), b)
            width, extent = block.width, block.extent
            self.steps.append(str(len(self.blocks)))
            self.blocks.append(block)
        self.image = image
        if end == "flat":
            self.head = nn.Linear(width * (extent**2 if image else extent), 4)
        elif end == "tied" and start == "words":
            self.head = nn.Linear(width, 8)
        else:
            self.head = nn.Linear(width, 4)

    def forward(self, x):
        if self.start == "words":
            x = self.embed(x)
        for step in self.steps:
            if step == "flatten":
                x = x.flatten(2).transpose(1, 2)
            elif step == "reshape":
                x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])
            else:
                x = self.blocks[int(step)](x)
        if self.end == "flat":
            return self.head(x.reshape(x.shape[0], -1))
        if self.end == "first" and not self.image:
            return self.head(x[:, 0]), self.head(x.mean(1))
        x = self.head(x.mean((2, 3)) if self.image else x)
        return F.linear(x, self.embed.weight) if self.end == "tied" and self.start == "words" else x


READS = {
    **dict.fromkeys(("*.qkv.*", "*.query.*", "*.key.*", "*.in_proj_*"), (0, 1)),
    "*.matrix": 0,
    "embed.weight": 1,
}
IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
INPUTS = {"image": IMAGE, "patches": IMAGE, "words": torch.tensor([[0, 8, 3, 5, 1]])}


def drawn(seed):
    """Return (start, [(kind and variant, size) of each block], end, ratio, form), all kinds alike often."""
    random = Random(seed)
    return (
        random.choice(list(INPUTS)),
        [(random.randrange(180), random.randrange(8)) for _ in range(random.randint(3, 6))],
        random.choice(["mean", "flat", "first", "tied"]),
        random.uniform(0.2, 0.9),
        random.choice(["auto", "graph", "graph", "module"]),
    )


@settings(
    max_examples=EXAMPLES or 16,
    deadline=None,
    suppress_health_check=CHECKS,
    phases=[Phase.explicit, Phase.generate],
)
@given(st.integers(0, 2**32))
@example(360)  # where one unit of every kind empties an axis
def test_blocks_of_every_kind_after_the_cut_are_the_masked_ones(oracle, seed):
    start, blocks, end, ratio, form = drawn(seed)
    note(f"Rich({start!r}, {blocks}, {end!r}), ratio={ratio}, form={form!r}")
    network = Rich(start, blocks, end)
    over = {n: OVER[type(m)] for n, m in network.named_modules() if type(m) in OVER}
    try:
        how = {"form": form, "matters": False, "rounded": True, "ratio": ratio}
        oracle(network, INPUTS[start], reads=READS, over=over, **how)
    except InfeasibleError as error:
        assert "no layer of this model has channels that can be removed" in str(error)
    except SurgeryError as error:  # nn.MultiheadAttention has one number for two widths
        assert form == "module" and "the model's own forward does not follow this cut" in str(error)
