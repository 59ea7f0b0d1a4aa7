import torch

from paretune.prune.scores import l1


def test_sums_the_absolute_weights_of_each_output_channel():
    weight = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 0.5]]]])  # (out=2, in=1, 1, 2)
    assert l1(weight).tolist() == [3.0, 0.5]  # |1| + |-2|, |0| + |0.5|


def test_follows_the_order_of_the_channels_and_leaves_the_weight_alone():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    before, order = weight.clone(), torch.tensor([5, 3, 1, 0, 2, 4])
    scores = l1(weight)
    assert scores.shape == (6,) and scores.dtype == torch.float32
    assert torch.equal(weight, before)
    torch.testing.assert_close(l1(weight[order]), scores[order])


def test_half_precision_is_summed_in_float32():
    weight = torch.full((1, 70000), 1.0, dtype=torch.float16)  # float16 would overflow at 65504
    assert l1(weight).tolist() == [70000.0]
