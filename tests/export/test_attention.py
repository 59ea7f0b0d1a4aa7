"""Attention as T5 writes it: written out, its result has other strides than the kernel gives; and of any rank."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune.export import export_onnx, runner, session, strip


class Attention(nn.Module):
    """Two heads of 4 numbers; a learned bias of positions is the mask, so that it has a gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.bias = nn.Embedding(7, 2)

    def forward(self, x, mask):
        batch, length = x.shape[:2]
        q, k, v = (layer(x).view(batch, -1, 2, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        place = torch.arange(length)
        bias = self.bias((place[:, None] * place) % 7).permute(2, 0, 1)[None]
        bias = torch.where(mask[:, None, None, :].expand(batch, 1, length, length), bias, -1e9).contiguous()
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.out(read.transpose(1, 2).contiguous().reshape(batch, length, -1))


def test_heads_are_joined_whatever_strides_attention_gives():
    model = Attention().eval()
    exported = export_onnx(model, (torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)))
    assert exported.fixed_batch is None
    run = runner(session(strip(exported.graph).SerializeToString()))
    for batch in (1, 3):
        inputs = torch.randn(batch, 5, 8), torch.rand(batch, 5) < 0.8
        torch.testing.assert_close(run(inputs), model(*inputs), rtol=1e-4, atol=1e-5)


class Windows(nn.Module):
    """Attention over tokens of 8 numbers, (batch, *windows, tokens, 8), in two heads or in none."""

    def __init__(self, heads, mask, causal, attend):
        super().__init__()
        torch.manual_seed(0)
        self.attend = attend
        self.inner, self.heads, self.causal = nn.Linear(8, 24), heads, causal
        self.mask = None if mask is None else nn.Parameter(mask)

    def forward(self, x):
        if self.heads:
            parts = self.inner(x).unflatten(-1, (3, 2, 4)).movedim(-3, 0).transpose(-2, -3)
        else:
            parts = self.inner(x).unflatten(-1, (3, 8)).movedim(-2, 0)
        read = self.attend(*parts, self.mask, is_causal=self.causal, scale=0.3)
        return read.transpose(-2, -3).flatten(-2) if self.heads else read


@pytest.mark.parametrize(
    "attend", [F.scaled_dot_product_attention, torch.ops.aten.scaled_dot_product_attention.default]
)
@pytest.mark.parametrize(
    ("heads", "windows", "mask", "causal"),
    [
        (True, (3,), None, False),
        (True, (3,), (5, 5), False),
        (True, (3,), (2, 5, 5), False),
        (True, (3,), (3, 1, 5, 5), False),
        (True, (3, 2), (1, 2, 2, 5, 5), False),
        (True, (3, 2), None, True),
        (False, (), (5, 5), False),
        (False, (), None, True),
        (False, (3,), None, False),
    ],
)  # fmt: skip
def test_attention_of_any_rank_is_exported_with_a_free_batch(heads, windows, mask, causal, attend):
    """nest and twins have windows as a fifth dimension: torch.onnx takes four and no other number."""
    model = Windows(heads, None if mask is None else torch.randn(mask), causal, attend).eval()
    exported = export_onnx(model, torch.randn(2, *windows, 5, 8))
    assert exported.fixed_batch is None and not exported.notes
    run = runner(session(strip(exported.graph).SerializeToString()))
    for batch in (1, 3):
        x = torch.randn(batch, *windows, 5, 8)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


class Queries(nn.Module):
    """Attention of queries of one shape over keys of another, which broadcast."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return torch.ops.aten.scaled_dot_product_attention(self.queries, x, 2 * x)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ((1, 5, 4), (6, 4)),
        ((5, 4), (6, 4)),
        ((1, 3, 2, 5, 4), (3, 2, 6, 4)),
        ((2, 5, 4), (2, 6, 4)),
        ((5, 4), (3, 2, 6, 4)),
    ],
)
def test_queries_that_all_samples_share_are_stretched(queries, keys):
    model = Queries(queries).eval()
    exported = export_onnx(model, torch.randn(2, *keys))
    run = runner(session(strip(exported.graph).SerializeToString()))
    for batch in (1, 3):
        x = torch.randn(batch, *keys)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)
