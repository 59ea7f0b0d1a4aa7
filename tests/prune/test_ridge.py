"""Ridge regression from a stream of rows: the textbook's answer, whatever way the rows came."""

import numpy as np
import pytest
import torch

from paretune.prune._repair import ridge as _ridge
from paretune.prune._repair.ridge import RIDGES, Ridge


def rows(n, d, o, seed=0, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64) + 3
    truth = torch.randn(2, o, d, generator=generator, dtype=torch.float64)
    return x, x @ truth.transpose(1, 2) + 5 + noise * torch.randn(
        2, n, o, generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_that_of_the_textbook(intercept):
    x, r = rows(60, 4, 3)
    ridge = Ridge(intercept=intercept)
    for part in (slice(0, 25), slice(25, 60)):
        ridge.add(x[:, part], r[:, part])
    change, shift, used = ridge.solve(0.1)
    assert used == 0.1
    for block in range(2):
        a, b = x[block].numpy(), r[block].numpy()
        mean_a, mean_b = (a.mean(0), b.mean(0)) if intercept else (np.zeros(4), np.zeros(3))
        a, b = a - mean_a, b - mean_b
        size = 0.1 * (a**2).mean()
        expected = np.linalg.solve(a.T @ a / 60 + size * np.eye(4), a.T @ b / 60).T
        np.testing.assert_allclose(change[block], expected, rtol=1e-9)
        np.testing.assert_allclose(shift[block], mean_b - expected @ mean_a, rtol=1e-9, atol=1e-12)
        left = r[block].numpy() - x[block].numpy() @ expected.T - shift[block].numpy()
        np.testing.assert_allclose(ridge.error(change, shift)[block], (left**2).mean(0), rtol=1e-8)


@pytest.mark.parametrize("ridge", [0.01, None])
def test_held_rows_give_the_same_answer(ridge, monkeypatch):
    x, r = rows(12, 20, 3)
    plain = Ridge(intercept=True)
    plain.add(x, r)
    monkeypatch.setattr(_ridge, "WIDEST", 5)
    held = Ridge(intercept=True)
    for part in (slice(0, 4), slice(4, 12)):
        held.add(x[:, part], r[:, part])
    expected, found = plain.solve(0.01), held.solve(ridge)
    if ridge:
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b))
        torch.testing.assert_close(plain.error(*expected[:2]), held.error(*found[:2]))
    else:
        assert found[2] in (*RIDGES, float("inf"))


def test_the_ridge_follows_the_noise_and_noise_alone_changes_nothing():
    chosen = []
    for noise in (1e-3, 3.0):
        x, r = rows(40, 12, 4, noise=noise)
        ridge = Ridge(intercept=True)
        ridge.add(x, r)
        chosen.append(ridge.solve()[2])
    assert chosen[0] < chosen[1] < float("inf")
    ridge = Ridge(intercept=True)
    generator = torch.Generator().manual_seed(0)
    ridge.add(torch.randn(1, 30, 12, generator=generator), torch.randn(1, 30, 4, generator=generator))
    change, shift, used = ridge.solve()
    assert used == float("inf") and not change.any() and not shift.any()


def test_inputs_that_say_nothing_are_no_error():
    ridge = Ridge(intercept=True)
    ridge.add(torch.zeros(1, 10, 3), torch.ones(1, 10, 2))
    change, shift, _ = ridge.solve(1e-6)
    assert not change.any() and torch.equal(shift, torch.ones(1, 2, dtype=torch.float64))
