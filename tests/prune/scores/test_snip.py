import torch

from paretune.prune.scores import snip, taylor


def test_sums_the_absolute_product_of_weight_and_gradient():
    weight, grad = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, -1.0], [1.0, 4.0]])
    assert snip(weight, grad).tolist() == [3.0, 7.0]  # 1 + 2, 3 + 4: nothing cancels


def test_is_never_below_taylor_and_equal_for_single_weights():
    generator = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(6, 4, 3, 3, generator=generator), torch.randn(6, 4, 3, 3, generator=generator)
    assert bool((snip(weight, grad) >= taylor(weight, grad)).all())
    single = weight.reshape(-1, 1), grad.reshape(-1, 1)
    torch.testing.assert_close(snip(*single), taylor(*single))
