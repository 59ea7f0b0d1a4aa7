"""Attention as T5 writes it: written out, its result has other strides than the kernel gives."""

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
