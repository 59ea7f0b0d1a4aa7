import torch

from paretune.prune.scores import l1, wanda


def test_sums_weights_times_the_norm_of_what_they_multiply():
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.5]])  # (in=2, out=2)
    assert wanda(weight, torch.tensor([[2.0], [4.0]])).tolist() == [6.0, 2.0]


def test_is_the_papers_metric_of_each_weight_summed_over_the_outputs():
    generator = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(7, 5, generator=generator),
        torch.randn(9, 5, generator=generator),
    )  # (out, in), (samples, in)
    metric = weight.abs() * x.norm(dim=0)  # equation 1 of the paper, for (out, in)
    torch.testing.assert_close(wanda(weight.T, x.norm(dim=0)[:, None]), metric.sum(0))


def test_equals_l1_where_all_inputs_are_alike():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wanda(weight, torch.ones(6, 1, 1, 1)), l1(weight))
