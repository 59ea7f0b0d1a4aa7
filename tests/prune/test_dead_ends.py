"""Structures on which tools of this kind came to a dead end: each holds the oracle, and some of it really goes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune

IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
QKV = {f"*{name}.*": (0, 1) for name in ("qkv", "query", "key")}  # rows of queries and keys are read by the scores


def kept(pruned, tensor, axis=0):
    """Return the indices that stay of an axis, None where all do."""
    return next((c.keep for c in pruned.cuts.cuts if c.tensor == tensor and c.axis == axis), None)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half go through a branch, and both are dealt out in turn (ShuffleNet V2)."""

    def __init__(self):
        super().__init__()
        self.stem, self.point = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 6, 1)
        self.deep, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.last, self.fc = nn.Conv2d(12, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            passes, branch = x.chunk(2, 1)
            x = torch.cat((passes, self.norm(self.deep(F.relu(self.point(branch))))), 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


def test_channel_shuffle(oracle):
    pruned = oracle(ShuffleUnit(), IMAGE, ratio=0.5, scope="local")
    assert len(kept(pruned, "stem.weight")) < 12 and len(kept(pruned, "point.weight")) < 6
    assert len(kept(pruned, "last.weight", 1)) < 12


class Partition(nn.Module):
    """Attention with a bias by relative position inside windows, shifted, or over a grid (Swin, MaxViT)."""

    def __init__(self, grid=False, shift=0):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Linear(8, 3)
        self.qkv, self.proj, self.grid, self.shift = nn.Linear(8, 24), nn.Linear(8, 8), grid, shift
        self.heads, self.window = 2, 2
        self.table = nn.Parameter(torch.zeros(9, 2))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        between = place[:, :, None] - place[:, None] + 1
        self.register_buffer("index", between[0] * 3 + between[1])

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y, s = self.norm(x), self.window
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        order = (0, 2, 4, 1, 3, 5) if self.grid else (0, 1, 3, 2, 4, 5)
        y = y.view(n, *((s, h // s, s, w // s) if self.grid else (h // s, s, w // s, s)), c)
        y = y.permute(order).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).reshape(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1).contiguous()
        y = (q * 0.5 @ k.transpose(-2, -1) + bias[None]).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, s * s, c)).view(n, h // s, w // s, s, s, c)
        y = y.permute((0, 3, 1, 4, 2, 5) if self.grid else (0, 1, 3, 2, 4, 5)).reshape(n, h, w, c)
        y = torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y
        return self.head((x + y).mean((1, 2)))


@pytest.mark.parametrize("how", [{}, {"shift": 1}, {"grid": True}])
@pytest.mark.parametrize("structures", [("channels",), ("heads",), ("query_key", "value")])
def test_windows_and_a_relative_position_bias(oracle, how, structures):
    pruned = oracle(Partition(**how), IMAGE, reads=QKV, over={"norm": -1}, structures=structures, ratio=0.5)
    rows = {"channels": 24, "heads": 12, "query_key": 12}[structures[0]]
    after = {name: tuple(p.shape) for name, p in pruned.model.named_parameters()}
    assert after["qkv.weight"] == (rows, 4 if structures[0] == "channels" else 8)
    assert after["table"] == (9, 1 if structures[0] == "heads" else 2)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


def test_grouped_convolution_chooses_freely_inside_each_group(oracle):
    worth = torch.tensor([1.0, 9, 2, 9, 9, 1, 9, 2])
    pruned = oracle(Grouped(), IMAGE, widths={"a": 4}, score=lambda weight: worth[: len(weight)])
    # places 1 and 3 of the first group, 0 and 2 of the second: not the same in both
    assert kept(pruned, "a.weight") == (1, 3, 4, 6) and pruned.cuts.form == "module"
    (cut,) = [c for c in pruned.cuts.cuts if c.tensor == "b.weight" and c.axis == 1]
    assert (cut.blocks, cut.keep) == (2, (1, 3, 0, 2)) and pruned.model.b.weight.shape == (6, 2, 3, 3)


class Unlike(nn.Module):
    """One layer makes queries and keys of width 4 and values of width 6, for two heads (LeViT)."""

    def __init__(self):
        super().__init__()
        self.heads, self.size, self.wide = 2, 4, 6
        self.qkv, self.proj, self.head = nn.Linear(3, 28), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, self.heads, -1).split([self.size, self.size, self.wide], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        x = ((q @ k) * 0.5).softmax(-1) @ v
        return self.head(F.hardswish(self.proj(x.transpose(1, 2).reshape(n, t, -1))).mean(1))


def test_fused_queries_and_keys_of_another_width_than_the_values(oracle):
    pruned = oracle(Unlike(), TOKENS, reads=QKV, structures=("query_key",), ratio=0.5)
    assert pruned.model.qkv.weight.shape == (2 * (2 + 2 + 6), 3)
    pruned = oracle(Unlike(), TOKENS, reads=QKV, structures=("value",), ratio=0.5)
    assert pruned.model.qkv.weight.shape == (2 * (4 + 4 + 3), 3) and pruned.model.proj.weight.shape == (8, 6)
    pruned = oracle(Unlike(), TOKENS, reads=QKV, structures=("heads",), ratio=0.5)
    assert pruned.model.qkv.weight.shape == (14, 3) and pruned.model.proj.weight.shape == (8, 6)


class Deit(nn.Module):
    """Class and distillation token in front of the patches, a head for each (DeiT)."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.first, self.second = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.position, self.norm = nn.Parameter(torch.zeros(1, 6, 8)), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), self.second.expand(x.shape[0], -1, -1), x), 1)
        x = x + self.position
        x = x + self.down(F.gelu(self.up(x.mean(1, keepdim=True) + self.norm(x))))
        return self.head(x[:, 0]), self.other(x[:, 1])


def test_class_and_distillation_tokens(oracle):
    pruned = oracle(Deit(), IMAGE, over={"norm": -1}, ratio=0.5, scope="local")
    for name in ("first", "second", "position"):
        assert kept(pruned, name, 2) == kept(pruned, "patch.weight") and len(kept(pruned, name, 2)) == 4
    assert pruned.cuts.form == "module" and pruned.model.up.weight.shape == (6, 4)


class Scaled(nn.Module):
    """A ConvNeXt block: depthwise, layer norm over the channels of an image, layer scale of shape (C, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.gamma, self.fc = nn.Parameter(torch.ones(8, 1, 1)), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        x = x + self.gamma * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.fc(x.mean((2, 3)))


def test_layer_scale(oracle):
    pruned = oracle(Scaled(), IMAGE, over={"norm": -1}, ratio=0.5, scope="local")
    assert pruned.model.gamma.shape == (4, 1, 1) and kept(pruned, "gamma") == kept(pruned, "down.weight")
    assert pruned.cuts.form == "module" and pruned.model.up.weight.shape == (6, 4)


class OverTokens(nn.Module):
    """Convolutions that take the tokens for channels (a mixer), and along the tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(3, 8), nn.Conv1d(5, 10, 1), nn.Conv1d(10, 5, 1)
        self.along, self.head = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(self.along(x.transpose(1, 2)).mean(2))


def test_a_convolution_over_tokens(oracle):
    pruned = oracle(OverTokens(), TOKENS, ratio=0.5, scope="local")
    after = {name: tuple(p.shape) for name, p in pruned.model.named_parameters()}
    assert after["up.weight"] == (5, 5, 1) and after["down.weight"] == (5, 5, 1)
    assert after["embed.weight"] == (4, 3) and after["along.weight"] == (4, 4, 3)


class Gates(nn.Module):
    """A gated linear unit, then a gate that one half of the channels gets from the other's tokens (gMLP)."""

    def __init__(self):
        super().__init__()
        self.glu, self.up, self.norm = nn.Linear(3, 16), nn.Linear(8, 12), nn.LayerNorm(6)
        self.spatial, self.down = nn.Linear(5, 5), nn.Linear(6, 3)

    def forward(self, x):
        x = F.glu(self.glu(x), -1)
        value, gate = F.gelu(self.up(x)).chunk(2, dim=-1)
        gate = self.spatial(self.norm(gate).transpose(1, 2)).transpose(1, 2)
        return self.down(value * gate)


def test_split_gates(oracle):
    pruned = oracle(Gates(), TOKENS, over={"norm": -1}, ratio=0.5, scope="local")
    halves = torch.tensor(kept(pruned, "glu.weight")).chunk(2)
    assert pruned.cuts.form == "module" and torch.equal(halves[0] + 8, halves[1]) and len(halves[0]) == 4
    halves = torch.tensor(kept(pruned, "up.weight")).chunk(2)
    assert torch.equal(halves[0] + 6, halves[1]) and pruned.model.norm.normalized_shape == (3,)


class Branches(nn.Module):
    """Branches of 3, 8 and 5 channels, joined, with a shortcut into the sum (Inception-ResNet)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.norm, self.join, self.fc = nn.BatchNorm2d(16), nn.Conv2d(16, 6, 1), nn.Linear(22, 3)

    def forward(self, x):
        x = self.norm(torch.cat([self.a(x), self.b(x), self.c(x)], 1))
        return self.fc(torch.cat([self.join(x), x], 1).mean((2, 3)))


def test_branches_of_unlike_width(oracle):
    pruned = oracle(Branches(), IMAGE, widths={"a": 1, "b": 5, "c": 2, "join": 4})
    assert pruned.model.join.weight.shape == (4, 8, 1, 1) and pruned.model.fc.weight.shape == (3, 12)
    assert kept(pruned, "norm.weight") == (
        *kept(pruned, "a.weight"),
        *(3 + k for k in kept(pruned, "b.weight")),
        *(11 + k for k in kept(pruned, "c.weight")),
    )


class Hidden(nn.Module):
    """Frames are put among the samples, and taken apart again (video, TimeSformer)."""

    def __init__(self):
        super().__init__()
        self.conv, self.over = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 3, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        n, t, c, h, w = x.shape
        x = self.conv(x.view(n * t, c, h, w)).mean((2, 3))
        return self.head(torch.tanh(self.over(x.view(-1, t * x.shape[1]))))


@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_reshape_that_hides_the_batch_in_a_product(oracle, form):
    frames = torch.randn(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pruned = oracle(Hidden(), frames, form=form, ratio=0.5, scope="local")
    after = {name: tuple(p.shape) for name, p in pruned.model.named_parameters()}
    assert after["conv.weight"] == (4, 3, 3, 3) and after["over.weight"] == (5, 12)


class Queries(nn.Module):
    """Six query heads share three key-value heads: query heads must go with theirs, two at a time."""

    def __init__(self):
        super().__init__()
        self.heads, self.groups, self.size = 6, 3, 4
        self.query, self.key, self.value = nn.Linear(3, 24), nn.Linear(3, 12), nn.Linear(3, 12)
        self.proj, self.head = nn.Linear(24, 8), nn.Linear(8, 3)

    def forward(self, x):
        n, t, _ = x.shape
        q = self.query(x).view(n, t, self.heads, self.size).transpose(1, 2)
        k, v = (f(x).view(n, t, self.groups, self.size).transpose(1, 2) for f in (self.key, self.value))
        k, v = (y.repeat_interleave(self.heads // self.groups, 1) for y in (k, v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, self.heads * self.size)
        return self.head(torch.tanh(self.proj(x)))


def test_heads_that_key_value_groups_divide(oracle):
    pruned = oracle(Queries(), TOKENS, reads=QKV, structures=("heads",), ratio=0.4)
    heads = sorted({k // 4 for k in kept(pruned, "query.weight")})
    groups = sorted({k // 4 for k in kept(pruned, "key.weight")})
    assert len(groups) == 2 and heads == [h for g in groups for h in (2 * g, 2 * g + 1)]
    assert kept(pruned, "value.weight") == kept(pruned, "key.weight")
    assert kept(pruned, "proj.weight", 1) == kept(pruned, "query.weight")


class Twice(nn.Module):
    """A layer that runs twice on the stream, and one whose weight two layers hold, called on two widths."""

    def __init__(self):
        super().__init__()
        self.embed, self.again = nn.Linear(3, 8), nn.Linear(8, 8)
        self.up, self.down, self.other = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        self.other.weight, self.head = self.up.weight, nn.Linear(6, 3)

    def forward(self, x):
        x = self.again(torch.tanh(self.again(self.embed(x))))
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(self.other(x))


def test_modules_called_twice_with_one_weight(oracle):
    pruned = oracle(Twice(), TOKENS, ratio=0.5, scope="local")
    assert pruned.model.again.weight.shape == (4, 4) and pruned.model.other.weight is pruned.model.up.weight
    assert pruned.model.up.weight.shape == (3, 4)
    assert kept(pruned, "again.weight", 0) == kept(pruned, "again.weight", 1) == kept(pruned, "embed.weight")


def test_parts_of_one_axis_that_are_taken_apart_are_none_of_them_emptied():
    """Mamba 2: one layer makes values (heads x width), and what is written and read of each (heads x state)."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(5, 16), nn.Linear(8, 3)
            with torch.no_grad():
                self.a.weight[8:] /= 100

        def forward(self, x):
            values, write, read = self.a(x).split([8, 4, 4], -1)
            state = torch.einsum("bhn,bhn->bh", write.unflatten(-1, (2, 2)), read.unflatten(-1, (2, 2)))
            return self.out((values.unflatten(-1, (2, 4)) * state[..., None]).flatten(1))

    pruned = prune.channels(Parts(), torch.randn(2, 5), ratio=0.9, score="l1")
    keep = next(cut.keep for cut in pruned.cuts.cuts if cut.tensor == "a.weight")
    assert all(any(start <= place < start + 4 for place in keep) for start in (8, 12))
    assert pruned.model(torch.randn(3, 5)).shape == (3, 3)
