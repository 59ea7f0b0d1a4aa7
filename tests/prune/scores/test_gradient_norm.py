import pytest
import torch
from torch import nn

from paretune.errors import InputError
from paretune.prune.scores import gradient_norm


def test_sums_absolute_gradients_of_a_channel_over_samples_and_positions():
    gradient = torch.tensor(
        [[[1.0, -2.0], [0.0, 0.5]], [[3.0, 0.0], [0.0, -1.0]]]
    )  # (samples, channels, positions)
    assert gradient_norm(gradient).tolist() == [6.0, 1.5]  # 1 + 2 + 3, 0.5 + 1


def test_sums_absolute_gradients_of_a_weight():
    gradient = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    assert gradient_norm(grad=gradient, of="weight").tolist() == [3.0, 0.5]


def test_the_two_forms_are_gradients_of_one_loss():
    torch.manual_seed(0)
    layer, x, pull = nn.Linear(3, 4, bias=False), torch.ones(1, 3), torch.randn(1, 4)
    output = layer(x)
    output.retain_grad()
    (pull * output).sum().backward()  # dL/dA = pull, dL/dW = pull x', with x = 1 three times as much in all
    torch.testing.assert_close(gradient_norm(output.grad), pull.abs()[0])
    torch.testing.assert_close(gradient_norm(grad=layer.weight.grad, of="weight"), 3 * pull.abs()[0])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"grad": torch.ones(2, 2)}, "of='output' needs output_grad"),
        ({"output_grad": torch.ones(2, 2), "of": "weight"}, "of='weight' needs grad"),
        (
            {"grad": torch.ones(2, 2), "of": "weights"},
            r"of='weights' must be one of output, weight\. Did you mean 'weight'\?",
        ),
    ],
)
def test_the_side_that_is_asked_for_must_be_given(how, message):
    with pytest.raises(InputError, match=message):
        gradient_norm(**how)
