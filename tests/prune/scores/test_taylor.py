import torch
from torch import nn

from paretune.prune.scores import taylor


def test_is_the_absolute_sum_of_weight_times_gradient():
    weight, grad = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, -1.0], [1.0, 4.0]])
    assert taylor(weight, grad).tolist() == [1.0, 1.0]  # |1 - 2|, |3 - 4|: terms may cancel


def test_of_the_output_takes_the_absolute_value_sample_by_sample():
    output = torch.tensor([[[1.0, 2.0], [1.0, 0.0]], [[1.0, 1.0], [2.0, 0.0]]])  # (samples, channels, positions)
    gradient = torch.tensor([[[1.0, -1.0], [1.0, 5.0]], [[1.0, 1.0], [-1.0, 0.0]]])
    assert taylor(output=output, output_grad=gradient, of="output").tolist() == [
        3.0,
        3.0,
    ]  # |-1| + |2|, |1| + |-2|


def test_is_what_the_loss_changes_by_where_the_loss_is_linear_in_the_weight():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 4, bias=False), torch.randn(7, 5)

    def loss():
        return (torch.arange(4.0) * layer(x)).mean()

    loss().backward()
    whole, scores = loss().detach(), taylor(layer.weight.detach(), layer.weight.grad)
    for channel in range(4):
        with torch.no_grad():
            kept = layer.weight[channel].clone()
            layer.weight[channel] = 0
            torch.testing.assert_close((loss() - whole).abs(), scores[channel])
            layer.weight[channel] = kept
