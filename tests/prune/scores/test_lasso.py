from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, lars_path_gram

from paretune.prune.scores import lasso
from paretune.prune.scores._lasso import entries


def test_of_independent_inputs_is_the_output_that_a_channel_carries():
    weight = torch.tensor([[1.0], [2.0], [2.0]])  # penalties of 1, 4 and 4 silence them, of a squared output of 9
    torch.testing.assert_close(lasso(weight, torch.eye(3)), torch.tensor([1 / 9, 4 / 9, 4 / 9]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), channels=st.integers(1, 16), own=st.booleans())
def test_is_the_entry_on_the_path_of_least_angle_regression(seed, channels, own):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * channels + 5, channels, generator=generator, dtype=torch.float64)
    x[:, 0] += x[:, -1]  # correlated, so that factors leave again
    y = x.sum(1) if own else torch.randn(len(x), generator=generator, dtype=torch.float64)
    found = entries(x.T @ x, x.T @ y).numpy()
    penalties, _, path = lars_path_gram((x.T @ y).numpy(), (x.T @ x).numpy(), n_samples=1, method="lasso")
    used = np.abs(path) > 1e-12
    expected = [penalties[np.argmax(row) - 1] if row.any() else 0.0 for row in used]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * penalties[0])


def test_scores_are_where_coordinate_descent_finds_a_channel_used():
    """At a penalty between two scores, exactly the channels above it have a factor that is not zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 10, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)  # (units, out, within)
    added = torch.einsum("ncw,cow->noc", x.reshape(80, 5, 2), weight).reshape(-1, 5)
    scores = lasso(weight, x.T @ x / 80)
    whole = added.sum(1)
    ordered = scores.sort().values
    for low, high in pairwise(ordered):
        penalty = float((low + high) / 2) * float(whole.square().sum()) / len(added)
        model = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
        used = model.fit(added.numpy(), whole.numpy()).coef_ != 0
        assert used.tolist() == (scores >= high).tolist()


def test_a_copy_is_not_needed():
    weight = torch.tensor([[1.0], [1.0], [3.0]])
    moment = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert sorted(lasso(weight, moment)[:2].tolist()) == pytest.approx([0.0, 2 / 13])


def test_a_reader_of_nothing_scores_zero():
    assert lasso(torch.ones(3, 2), torch.zeros(3, 3)).tolist() == [0.0, 0.0, 0.0]
