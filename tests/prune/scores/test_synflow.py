import torch
from torch import nn

from paretune.prune.scores import synflow


def test_sums_the_absolute_weight_times_its_share_of_the_flow():
    weight, gradient = torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([[0.25, 0.25], [0.05, 0.1]])
    torch.testing.assert_close(synflow(weight, gradient), torch.tensor([0.75, 0.25]))


def test_flow_is_conserved_from_layer_to_layer_and_through_every_hidden_unit():
    """Theorems 1 and 2 of the paper: what enters a unit leaves it, and every layer carries the whole flow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model(torch.ones(1, 3)).sum().log().backward()
    first, second = model[0].weight, model[2].weight
    into = synflow(first.detach(), first.grad)
    torch.testing.assert_close(into.sum(), torch.tensor(1.0))
    torch.testing.assert_close(into, synflow(second.detach().T, second.grad.T))
