import torch

from paretune.prune.scores import apoz


def test_is_the_fraction_of_samples_and_positions_that_fire():
    activation = torch.tensor(
        [[[0.0, 1.0], [0.0, 0.0]], [[2.0, 3.0], [0.0, 4.0]]]
    )  # (samples, channels, positions)
    assert apoz(activation).tolist() == [0.75, 0.25]


def test_is_one_less_the_average_percentage_of_zeros_of_the_paper():
    activation = torch.relu(torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0)))
    zeros = [sum(float(value == 0) for value in activation[:, c].flatten()) / (8 * 9) for c in range(5)]
    torch.testing.assert_close(apoz(activation), 1 - torch.tensor(zeros))


def test_takes_a_map_without_positions():
    assert apoz(torch.tensor([[0.0, 1.0], [0.0, 2.0]])).tolist() == [0.0, 1.0]
