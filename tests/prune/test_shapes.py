"""Shapes that depend on values."""

import torch
from torch import nn

from paretune import prune
from paretune.prune._capture.capture import capture
from paretune.prune._capture.shapes import settle_shapes


class Picks(nn.Module):
    """Goes on with the samples whose first number is not zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(self.first(x[x[:, 0].abs() > 0.01]).tanh())


def test_symbols_become_the_sizes_of_the_example():
    inputs = torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4])
    captured = capture(Picks(), inputs)
    assert settle_shapes(Picks(), captured)
    sizes = {
        node.name: tuple(node.meta["val"].shape)
        for node in captured.program.graph.nodes
        if node.op[0] == "c" and isinstance(node.meta["val"], torch.Tensor)
    }
    assert (sizes["index"], sizes["linear"], sizes["linear_1"]) == ((2, 4), (2, 6), (2, 2))
    assert not settle_shapes(Picks(), captured)


def test_a_model_with_such_shapes_is_cut_in_both_forms(oracle):
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for form in ("auto", "graph"):
        pruned = oracle(Picks(), inputs, ratio=0.5, form=form)
        assert pruned.widths == {"first": 3}
        assert pruned.model(torch.ones(5, 4).to(next(pruned.model.parameters()))).shape == (5, 2)
    assert prune.channels(Picks(), inputs, ratio=0.5).notes == ()
