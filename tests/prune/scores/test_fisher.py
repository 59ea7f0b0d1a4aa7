import torch
from torch import nn

from paretune.prune.scores import fisher


def test_is_half_the_mean_square_of_each_samples_change():
    output = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])  # (samples=2, channels=1, positions=2)
    gradient = torch.tensor([[[0.5, 1.0]], [[1.0, 7.0]]])  # of the mean loss: each sample's own is twice as large
    # samples change by 2 * (0.5 + 2) = 5 and 2 * 3 = 6: (25 + 36) / 4
    assert fisher(output, gradient).tolist() == [15.25]


def test_is_the_square_of_each_samples_gradient_by_a_gate():
    """The score is 1/2 E (dL_n/dm_c)^2 with a gate m_c on the channel, taken sample by sample."""
    torch.manual_seed(0)
    layer, head = nn.Conv1d(3, 4, 2), nn.Linear(12, 2)
    x, y = torch.randn(5, 3, 4), torch.randint(0, 2, (5,))
    gates = torch.ones(5, 4, 1, requires_grad=True)
    output = layer(x)
    output.retain_grad()
    nn.functional.cross_entropy(head((gates * output).flatten(1)), y, reduction="sum").backward()
    # the mean loss has a fifth of the sum's gradient
    torch.testing.assert_close(fisher(output.detach(), output.grad / 5), gates.grad[..., 0].square().mean(0) / 2)
