import torch

from paretune.prune.scores import sparsegpt
from paretune.prune.scores._sparsegpt import damped, inverse_diagonal


def test_sums_squares_over_the_diagonal_of_the_inverse():
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.5]])  # (in=2, out=2)
    assert sparsegpt(weight, torch.tensor([[2.0], [0.5]])).tolist() == [2.5, 0.5]


def test_is_the_error_that_is_left_when_the_other_weights_make_up_for_one():
    """The optimal brain surgeon's lemma, by least squares: without a weight, the best output misses by this."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(5, generator=generator, dtype=torch.float64)
    scores = sparsegpt(w[:, None], inverse_diagonal(x.T @ x, damping=0)[:, None])
    for q in range(5):
        others = [i for i in range(5) if i != q]
        best = torch.linalg.lstsq(x[:, others], (x @ w)[:, None]).solution
        torch.testing.assert_close(
            scores[q].double(), (x @ w - (x[:, others] @ best)[:, 0]).square().sum(), rtol=1e-5, atol=0
        )


def test_damping_is_a_fraction_of_the_mean_diagonal_and_mends_dead_inputs():
    moment = torch.diag(torch.tensor([1.0, 3.0, 0.0]))
    torch.testing.assert_close(damped(moment, 0.3).diagonal(), torch.tensor([1.4, 3.4, 0.4], dtype=torch.float64))
    assert moment[2, 2] == 0
    assert bool(inverse_diagonal(torch.zeros(3, 3)).isfinite().all())
