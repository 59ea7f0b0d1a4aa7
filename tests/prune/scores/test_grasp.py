import torch

from paretune.prune.scores import grasp


def test_sums_weight_times_hessian_times_gradient_with_its_sign():
    weight, product = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert grasp(weight, product).tolist() == [-1.0, 4.0]


def test_is_the_loss_of_gradient_flow_to_first_order():
    """|g|^2 falls by 2 w'Hg if a weight w goes, to first order (equation 8 of the paper); w is tiny here."""
    torch.manual_seed(0)
    curvature = torch.randn(4, 4, dtype=torch.float64)
    curvature = curvature @ curvature.T
    weight = torch.randn(4, dtype=torch.float64)
    weight[2] *= 1e-5

    def flow(w):  # of the loss w'Hw/2, whose gradient is Hw
        return (curvature @ w).square().sum()

    without = weight.clone()
    without[2] = 0
    score = grasp(weight[:, None], (curvature @ curvature @ weight)[:, None])
    torch.testing.assert_close(2 * score[2].double(), flow(weight) - flow(without), rtol=1e-3, atol=0)
