import torch

from paretune.prune.scores import geometric_median


def test_sums_the_distances_to_all_others():
    assert geometric_median(torch.tensor([[0.0], [1.0], [5.0]])).tolist() == [6.0, 5.0, 9.0]


def test_is_each_filters_sum_in_the_geometric_median_of_all():
    """The geometric median is the point of the least sum; what the score gives is that sum at each filter."""
    weight = torch.randn(7, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = [sum((filter - other).square().sum().sqrt() for other in weight) for filter in weight]
    torch.testing.assert_close(geometric_median(weight), torch.stack(sums).float())


def test_copies_of_one_filter_are_the_first_to_go():
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    weight = weight[[0, 0, 2, 0, 4]]
    assert set(geometric_median(weight).argsort()[:3].tolist()) == {0, 1, 3}
