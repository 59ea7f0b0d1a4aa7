"""FISTA: a case by hand, the certificate, and scikit-learn as the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LogisticRegression

from paretune import prune
from paretune.errors import InputError, RunError


def data(n, features, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    y = x[:, 0] - 2 * x[:, 1] + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, y


def test_an_orthogonal_design_by_hand():
    """With X = sqrt(n) I the solution is X^T y / n, soft thresholded: 2 and -0.5 by 1 give 1 and 0."""
    x = torch.eye(2, dtype=torch.float64) * 2**0.5
    y = torch.tensor([2.0, -0.5], dtype=torch.float64) * 2**0.5
    found = prune.fista(x, y, 1.0)
    assert found.weight.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert found.objective == pytest.approx(((1 * 2**0.5) ** 2 + (0.5 * 2**0.5) ** 2) / 4 + 1.0)


@settings(deadline=None, max_examples=20)
@given(st.integers(5, 60), st.integers(2, 12), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_squares_agree_with_scikit_learn(n, features, strength, seed):
    x, y = data(n, features, seed)
    found = prune.fista(x, y, strength, tolerance=1e-10)
    oracle = (
        Lasso(alpha=strength, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy()).coef_
    )
    least = float((y - x @ torch.from_numpy(oracle)).square().sum()) / (2 * n) + strength * float(
        np.abs(oracle).sum()
    )
    assert found.objective - found.gap <= least + 1e-9 and abs(found.objective - least) <= 1e-6
    if n > 2 * features:  # the minimum is one point
        assert np.allclose(found.weight.numpy(), oracle, atol=1e-4)


@pytest.mark.parametrize("strength", [0.3, 0.05, 0.005])
def test_the_logistic_loss_agrees_with_scikit_learn(strength):
    x, y = data(80, 6, 3)
    sign = torch.where(y > 0, 1.0, -1.0)
    found = prune.fista(x, sign, strength, loss="logistic", tolerance=1e-10)
    oracle = LogisticRegression(
        l1_ratio=1.0, C=1 / (strength * 80), solver="saga", fit_intercept=False, tol=1e-10, max_iter=100_000
    )
    weight = oracle.fit(x.numpy(), sign.numpy()).coef_[0]
    assert np.allclose(found.weight.numpy(), weight, atol=1e-4)
    assert ((found.weight == 0).numpy() == (np.abs(weight) < 1e-7)).all()


@pytest.mark.parametrize("loss", ["squares", "logistic"])
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.02, 0.5))
def test_the_certificate_is_the_optimality_condition(loss, seed, strength):
    """Where w is not zero the gradient is -strength * sign(w), elsewhere it is within strength (KKT)."""
    x, y = data(50, 8, seed)
    y = torch.where(y > 0, 1.0, -1.0).double() if loss == "logistic" else y
    found = prune.fista(x, y, strength, loss=loss, tolerance=1e-12)
    w = found.weight.clone().requires_grad_()
    value = (
        (y - x @ w).square().mean() / 2 if loss == "squares" else torch.nn.functional.softplus(-y * (x @ w)).mean()
    )
    (gradient,) = torch.autograd.grad(value, w)
    assert bool((gradient.abs() <= strength + 1e-4).all())
    inside = found.weight != 0
    assert torch.allclose(gradient[inside], -strength * found.weight[inside].sign(), atol=1e-4)


def test_above_the_largest_useful_strength_all_is_zero_at_once():
    x, y = data(30, 4, 0)
    largest = float((x.T @ y).abs().max()) / 30
    found = prune.fista(x, y, largest * 1.001)
    assert not found.weight.any() and found.iterations == 0 and found.gap <= 1e-8 * found.objective
    assert prune.fista(x, y, largest * 0.98).weight.any()


def test_too_few_iterations_are_told():
    x, y = data(40, 10, 1)
    x[:, 1] = x[:, 0] + 1e-4 * x[:, 1]
    with pytest.raises(RunError, match=r"after 10 iterations the gap is .*, above .*: raise iterations"):
        prune.fista(x, y, 1e-3, tolerance=1e-12, iterations=10)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"strength": 0.0}, "strength=0.0 must be a number above 0"),
        ({"tolerance": -1}, "tolerance=-1 must be a number above 0"),
        ({"loss": "square"}, r"Did you mean 'squares'\?"),
        ({"loss": "logistic"}, "must be -1 and 1"),
        ({"target": torch.ones(3)}, r"they are \(4, 2\) and \(3,\)"),
        ({"inputs": torch.full((4, 2), float("nan"))}, "must be finite"),
        ({"iterations": 0}, "iterations=0 must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message):
        prune.fista(**{"inputs": torch.ones(4, 2), "target": torch.arange(4.0), "strength": 1.0} | how)
