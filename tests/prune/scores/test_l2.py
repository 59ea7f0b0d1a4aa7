import torch

from paretune.prune.scores import l2


def test_is_the_length_of_each_output_channel():
    weight = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.5]]]])  # (out=2, in=1, 1, 2)
    assert l2(weight).tolist() == [5.0, 0.5]


def test_is_the_square_root_of_the_sum_of_squares():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(l2(weight), weight.square().sum((1, 2, 3)).sqrt().float())


def test_half_precision_is_summed_in_float32():
    assert l2(torch.full((1, 256), 256.0, dtype=torch.float16)).tolist() == [4096.0]  # 256^2 overflows float16
