import torch

from paretune.prune.scores import obc, sparsegpt
from paretune.prune.scores._sparsegpt import inverse_diagonal


def test_of_independent_inputs_is_the_output_that_a_channel_carries():
    weight, moment = torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[0.5, 0.0], [0.0, 2.0]])
    assert obc(weight, moment, damping=0).tolist() == [2.5, 0.5]  # (1 + 4) / 2, 0.25 * 2


def test_is_the_error_that_is_left_when_the_other_channels_make_up_for_one():
    """By least squares over all weights of the other channels: 4 channels of 3 weights each, 2 outputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)  # (units, out, within)
    flat = weight.transpose(1, 2).reshape(12, 2)
    scores = obc(weight, x.T @ x, damping=0)
    for unit in range(4):
        others = [i for i in range(12) if i // 3 != unit]
        best = torch.linalg.lstsq(x[:, others], x @ flat).solution
        torch.testing.assert_close(
            scores[unit].double(), (x @ flat - x[:, others] @ best).square().sum(), rtol=1e-5, atol=0
        )


def test_equals_sparsegpt_where_a_channel_has_one_weight_for_each_output():
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(30, 6, generator=generator), torch.randn(6, 4, generator=generator)
    torch.testing.assert_close(obc(weight, x.T @ x), sparsegpt(weight, inverse_diagonal(x.T @ x)[:, None]))
