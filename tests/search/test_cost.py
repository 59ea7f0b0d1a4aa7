"""The model of a run's seconds: a case by hand, the posterior written out another way, and what it must find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search import _cost
from paretune.search._cost import fit

NUMBERS = np.zeros(2, np.int64)


def runs(count, seed=0, budgets=(1.0, 3.0, 9.0)):
    generator = np.random.default_rng(seed)
    return generator.random((count, 2)), generator.choice(budgets, count), generator


def fitted(rows, budgets, seconds, workers=None, categories=NUMBERS):
    workers = np.zeros(len(rows), np.int64) if workers is None else workers
    return fit(rows, budgets, seconds, workers, categories)


def test_equal_runs_by_hand():
    """Five runs of one configuration, of e seconds each: the mean is 1, the noise RATE / (SHAPE + 2)."""
    rows = np.full((5, 2), 0.5)
    cost = fitted(rows, np.ones(5), np.full(5, np.e))
    mean, std = cost.predict(rows[:1], 1.0)
    assert mean == pytest.approx([1.0]) and cost.freedom == 6.0
    assert std == pytest.approx([np.sqrt(0.02 / 3 * (1 + 1 / 5))])
    # a t of 6 degrees of freedom is below 1.4398 with 90 %
    assert cost.quantile(rows[:1], 1.0) == pytest.approx(np.exp(1 + 1.4398 * std), rel=1e-4)


def test_there_is_none_before_five_runs_that_took_time():
    rows, budgets, _ = runs(6)
    assert fitted(rows[:4], budgets[:4], np.ones(4)) is None
    assert fitted(rows, budgets, np.array([1.0, 1, 1, 1, 0, np.nan])) is None
    assert fitted(rows, budgets, np.array([1.0, 1, 1, 1, 1, np.nan])) is not None


def test_the_posterior_is_that_of_least_squares_with_the_prior_as_rows(monkeypatch):
    """Ridge is least squares with one row more for each weight; the intercept, which is flat, has none."""
    monkeypatch.setattr(_cost, "SCALES", (3.0,))
    rows, budgets, generator = runs(30)
    workers = generator.integers(2, size=30)
    seconds = np.exp(rows @ [2.0, -1.0] + 0.3 * workers + 0.1 * generator.standard_normal(30)) * budgets
    cost = fitted(rows, budgets, seconds, workers)
    logs = np.log(budgets)
    design = _cost._features(rows, logs - logs.mean(), workers, NUMBERS, (0, 1))
    prior = 3.0 * _cost._prior(NUMBERS, (0, 1))
    count = len(prior)
    augmented = np.block([[np.ones((30, 1)), design], [np.zeros((count, 1)), np.diag(1 / prior)]])
    target = np.concatenate([np.log(seconds) - logs, np.zeros(count)])
    found, *_ = np.linalg.lstsq(augmented, target, rcond=None)
    np.testing.assert_allclose(cost.weights, found[1:], rtol=1e-8, atol=1e-10)
    covariance = np.linalg.inv(augmented.T @ augmented)
    rate = 0.02 + 0.5 * float(((target - augmented @ found) ** 2).sum())
    noise = rate / (1 + 29 / 2)
    assert cost.noise == pytest.approx(noise)
    point = np.array([[0.2, 0.9]])
    found_at = _cost._features(point, np.log([5.0]) - logs.mean(), np.array([1]), NUMBERS, (0, 1))[0]
    full = np.concatenate([[1.0], found_at])
    mean, std = cost.predict(point, 5.0, worker=1)
    assert mean == pytest.approx([np.log(5.0) + full @ found])
    assert std == pytest.approx([np.sqrt(noise * (1 + full @ covariance @ full))])


@settings(max_examples=60, deadline=None)
@given(
    power=st.floats(0.3, 2.0), slopes=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), count=st.integers(8, 60),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_it_rises_with_the_budget_where_the_runs_do(power, slopes, count, seed):
    rows, budgets, generator = runs(count, seed)
    budgets[:3] = (1.0, 3.0, 9.0)
    cost = fitted(rows, budgets, np.exp(rows @ slopes) * budgets**power)
    at = np.stack([cost.predict(generator.random((20, 2)) * 0 + rows[:1], b)[0] for b in (1.0, 2.0, 4.0, 9.0)])
    assert (np.diff(at, axis=0) > 0).all()


@pytest.mark.parametrize("count", [5, 12, 40])
def test_nine_in_ten_runs_stay_below_the_quantile(count):
    """Log-normal times over two parameters, many histories: the share that is kept, from five runs on."""
    kept = []
    for seed in range(60):
        rows, budgets, generator = runs(count + 40, seed)
        seconds = np.exp(rows @ [1.5, -1.0] + 0.2 * generator.standard_normal(len(rows))) * budgets**0.8
        cost = fitted(rows[:count], budgets[:count], seconds[:count])
        kept.append(np.mean(seconds[count:] <= cost.quantile(rows[count:], budgets[count:])))
    assert 0.85 <= np.mean(kept) <= 0.97


def test_it_finds_what_makes_runs_slow():
    rows, budgets, generator = runs(60)
    seconds = np.exp(3 * rows[:, 0] + 0.05 * generator.standard_normal(60)) * budgets
    cost = fitted(rows, budgets, seconds)
    mean, _ = cost.predict(np.array([[0.1, 0.5], [0.9, 0.5]]), 9.0)
    assert mean == pytest.approx(np.log(9.0) + np.array([0.3, 2.7]), abs=0.1)


def test_categories_and_branches_have_levels_of_their_own():
    generator = np.random.default_rng(0)
    codes = generator.integers(3, size=60)
    rows = np.stack([(codes + 0.5) / 3, np.where(codes == 1, generator.random(60), np.nan)], axis=1)
    takes = np.array([1.0, 8.0, 2.0])  # neither rising nor falling
    cost = fitted(rows, np.ones(60), takes[codes], categories=np.array([3, 0]))
    points = np.array([[0.5 / 3, np.nan], [1.5 / 3, 0.4], [2.5 / 3, np.nan]])
    assert np.exp(cost.predict(points, 1.0)[0]) == pytest.approx(takes, rel=0.05)


def test_a_slow_worker_is_known_and_counts_where_it_is_not_said_which():
    rows, budgets, generator = runs(60)
    workers = generator.integers(3, size=60)
    seconds = budgets * np.array([1.0, 1.0, 2.0])[workers] * np.exp(0.02 * generator.standard_normal(60))
    cost = fitted(rows, budgets, seconds, workers)
    assert cost.slowest == 2
    assert cost.speeds[2] / cost.speeds[0] == pytest.approx(2.0, rel=0.05)
    assert np.exp(cost.predict(rows[:1], 9.0)[0]) == pytest.approx([18.0], rel=0.05)
    assert np.exp(cost.predict(rows[:1], 9.0, worker=0)[0]) == pytest.approx([9.0], rel=0.05)
    assert fitted(rows, budgets, budgets).speeds == {0: 1.0}


def test_a_long_history_is_looked_at_from_its_end():
    rows, budgets, _ = runs(1500)
    seconds = budgets * np.where(np.arange(1500) < 500, 50.0, 1.0)
    cost = fitted(rows, budgets, seconds)
    assert cost.runs == 1000 and np.exp(cost.predict(rows[:1], 9.0)[0]) == pytest.approx([9.0], rel=0.01)
