import torch
from torch import nn

from paretune.prune.scores import bn_scale


def test_is_the_absolute_scale():
    assert bn_scale(torch.tensor([0.5, -1.0, 0.0])).tolist() == [0.5, 1.0, 0.0]


def test_is_the_deviation_of_what_a_batch_norm_gives():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4).train()
    with torch.no_grad():
        norm.weight.normal_()
    torch.testing.assert_close(
        norm(5 + 3 * torch.randn(500, 4)).std(0, correction=0),
        bn_scale(norm.weight.detach()),
        rtol=1e-3,
        atol=1e-4,
    )
