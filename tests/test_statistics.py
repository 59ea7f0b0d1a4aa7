"""Intervals hold as often as they say, by simulation; tests agree with hand cases and with other formulas."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.metrics import METRICS, Metric
from paretune.statistics import (
    Z,
    bootstrap_ratio,
    calibration_error,
    mcnemar,
    metric_interval,
    paired_difference,
    samples_needed,
    tango,
    wilson,
)

ACCURACY, MSE, RMSE, F1 = (METRICS[name] for name in ("accuracy", "mse", "rmse", "f1"))
counts = st.integers(0, 60)


def column(values):
    return np.asarray(values, dtype=np.float32)[:, None]


def pairs(both, lost, won, neither):
    """Rows of two models with so many samples right in both, only the first, only the second, neither."""
    a = column([1] * both + [1] * lost + [0] * won + [0] * neither)
    b = column([1] * both + [0] * lost + [1] * won + [0] * neither)
    return a, b


def test_wilson_solves_its_quadratic():
    for right, n in ((9, 10), (1, 3), (480, 500)):
        for end in wilson(right, n):  # (p - p0)^2 = z^2 p0 (1 - p0) / n at both ends
            assert (right / n - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / n)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (300, 300), (0, 20)])
def test_wilson_at_the_edges_is_one_sided_and_never_empty(right, n):
    low, high = metric_interval(ACCURACY, column([1] * right + [0] * (n - right)))
    assert low == (0 if right == 0 else pytest.approx(n / (n + Z**2)))
    assert high == (1 if right == n else pytest.approx(Z**2 / (n + Z**2)))


def test_wilson_covers_the_true_fraction():
    generator = np.random.default_rng(0)
    for n, p in ((30, 0.9), (300, 0.97), (1000, 0.5)):
        ends = [wilson(float(k), n) for k in generator.binomial(n, p, 2000)]
        assert 0.93 <= np.mean([low <= p <= high for low, high in ends]) <= 0.975


def test_bootstrap_intervals_cover_the_true_value():
    generator = np.random.default_rng(1)
    hits = {"mse": 0, "rmse": 0}
    for _ in range(150):
        rows = column(generator.exponential(1.0, 100))  # skewed; true mean 1
        for metric in (MSE, RMSE):
            low, high = metric_interval(metric, rows)
            hits[metric.name] += low <= 1.0 <= high
    assert all(0.89 * 150 <= count <= 0.99 * 150 for count in hits.values()), hits


def test_a_general_metric_covers_too():
    """Macro F1 of two balanced classes, each right with probability 0.8, is 0.8 in the limit."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        target = generator.integers(0, 2, 200)
        predicted = np.where(generator.random(200) < 0.8, target, 1 - target)
        low, high = metric_interval(F1, np.stack([predicted, target], axis=1).astype(np.float32))
        hits += low <= 0.8 <= high
    assert hits >= 53


@pytest.mark.parametrize("metric", [MSE, RMSE])
def test_many_samples_take_the_normal_way_and_agree_with_the_formula(metric):
    rows = column(np.random.default_rng(3).exponential(1.0, 50_000))
    low, high = metric_interval(metric, rows)
    mean, error = float(rows.mean()), float(rows.std()) / math.sqrt(50_000)
    ends = np.array([mean - Z * error, mean + Z * error])
    assert [low, high] == pytest.approx(list(ends if metric is MSE else np.sqrt(ends)), rel=2e-3)


def test_resamples_of_fewer_rows_are_scaled_to_all_rows():
    """A metric that is no function of a mean (here: of two columns) gets the width of its normal interval."""
    metric = Metric("mean of both", None, lambda rows: float(rows.mean()))
    rows = np.random.default_rng(4).normal(size=(80_000, 2)).astype(np.float32)
    low, high = metric_interval(metric, rows)
    assert high - low == pytest.approx(2 * Z * math.sqrt(0.5 / 80_000), rel=0.2)


def test_one_sample_or_equal_samples_of_an_error_show_no_spread():
    assert metric_interval(MSE, column([0.25])) == (0.25, 0.25)
    assert metric_interval(MSE, column([0.25] * 10)) == pytest.approx((0.25, 0.25))


def test_no_sample_has_no_interval():
    with pytest.raises(ValueError, match="at least 1 sample; got 0"):
        metric_interval(ACCURACY, column([]))


def test_fractions_per_sample_are_bootstrapped():
    """Pixel accuracy: a fraction whose rows are not 0 or 1 spreads less than Wilson would say."""
    rows = column(np.random.default_rng(5).uniform(0.85, 0.95, 100))
    low, high = metric_interval(ACCURACY, rows)
    assert 0.89 < low < rows.mean() < high < 0.91


def likelihood_score(won, lost, n, delta):
    """Tango's statistic with the nuisance parameter found by brute force instead of by his formula."""
    q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)  # lost; won = q + delta; the rest agrees
    rest = 1 - 2 * q - delta
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [
            np.where(k > 0, k * np.log(np.maximum(p, 1e-300)), 0.0)
            for k, p in ((lost, q), (won, q + delta), (n - won - lost, rest))
        ]
    best = q[np.argmax(sum(terms))]
    return (won - lost - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta)))


@pytest.mark.parametrize(("won", "lost", "n"), [(1, 5, 50), (12, 2, 50), (0, 3, 300), (40, 55, 1000)])
def test_tango_ends_are_where_the_score_is_z(won, lost, n):
    low, high = tango(won, lost, n)
    assert likelihood_score(won, lost, n, low) == pytest.approx(Z, rel=1e-3)
    assert likelihood_score(won, lost, n, high) == pytest.approx(-Z, rel=1e-3)


@given(counts, counts, st.integers(1, 200))
def test_tango_is_antisymmetric_holds_the_estimate_and_agrees_with_mcnemar(won, lost, agree):
    n = won + lost + agree
    low, high = tango(won, lost, n)
    assert -1 <= low <= (won - lost) / n <= high <= 1
    assert tango(lost, won, n) == pytest.approx((-high, -low), abs=1e-9)
    if won + lost:
        statistic = abs(won - lost) / math.sqrt(won + lost)
        if abs(statistic - Z) > 1e-6:
            assert (low > 0 or high < 0) == (statistic > Z)


def test_tango_covers_the_true_difference():
    generator = np.random.default_rng(6)
    for n, won, lost in ((300, 0.01, 0.02), (1000, 0.02, 0.03), (100, 0.1, 0.1)):
        draws = generator.multinomial(n, [won, lost, 1 - won - lost], 1500)
        ends = [tango(up, down, n) for up, down, _ in draws]
        covered = np.mean([low <= won - lost <= high for low, high in ends])
        assert 0.93 <= covered <= 0.98, (n, covered)


def test_paired_differences_of_an_error_cover_the_true_one_and_are_narrow():
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(100):
        base = generator.exponential(1.0, 200)
        a, b = column(base), column(base + generator.normal(0.05, 0.1, 200))
        difference, low, high = paired_difference(MSE, a, b)
        hits += low <= 0.05 <= high
        assert difference == pytest.approx(float(b.mean() - a.mean()), abs=1e-5)
        assert high - low < 0.05  # unpaired it would be 0.4
    assert 89 <= hits <= 100


def test_pairs_must_be_of_the_same_samples():
    with pytest.raises(ValueError, match="same samples twice; got 3 and 2"):
        paired_difference(ACCURACY, column([1, 1, 1]), column([1, 1]))


def test_identical_models_differ_by_nothing():
    rows = column(np.random.default_rng(8).random(50))
    assert paired_difference(MSE, rows, rows) == (0, 0, 0)
    difference, low, high = paired_difference(ACCURACY, *pairs(90, 0, 0, 10))
    assert (difference, low, high) == (
        0,
        pytest.approx(-(Z**2) / (100 + Z**2)),
        pytest.approx(Z**2 / (100 + Z**2)),
    )


def test_mcnemar_by_counting():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(3, 3) == 1
    assert mcnemar(200_000, 201_000) == pytest.approx(
        math.erfc(1000 / math.sqrt(401_000) / math.sqrt(2)), rel=2e-2
    )


@given(st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=36)
def test_mcnemar_is_the_tail_of_all_sign_patterns(lost, won):
    n = lost + won
    extreme = sum(abs(2 * sum(signs) - n) >= abs(won - lost) for signs in product((0, 1), repeat=n))
    assert mcnemar(lost, won) == pytest.approx(extreme / 2**n)


def test_samples_needed_tells_four_times_in_five():
    """A true drop of 1 point against a bound of 3, planned from 100 samples, then drawn at the size planned."""
    a, b = pairs(88, 3, 2, 7)
    needed = samples_needed(ACCURACY, a, b, -0.03)
    assert 400 < needed < 2500
    draws = np.random.default_rng(9).multinomial(needed, [0.02, 0.03, 0.95], 1000)
    told = np.mean([tango(up, down, needed)[0] > -0.03 for up, down, _ in draws])
    assert 0.75 <= told <= 0.87


def test_samples_needed_shrinks_with_the_distance_and_is_none_at_the_bound():
    generator = np.random.default_rng(10)
    a = column(generator.exponential(1.0, 200))
    b = a + column(generator.normal(0.0, 0.3, 200))
    difference = MSE.value(b) - MSE.value(a)
    near, far = (samples_needed(MSE, a, b, difference + gap) for gap in (0.01, 0.02))
    assert near / far == pytest.approx(4, rel=0.05)
    assert samples_needed(MSE, a, b, difference) is None
    assert samples_needed(ACCURACY, *pairs(95, 0, 0, 5), 0.0) is None
    assert samples_needed(ACCURACY, *pairs(90, 3, 2, 5), -0.01) is None


def test_ratio_of_rounds_by_hand():
    ratio, low, high = bootstrap_ratio(np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.0, 2.0]))
    assert (ratio, low, high) == (0.5, 0.5, 0.5)


def correlated_rounds(generator, count, correlation):
    noise, level = np.empty(count), 0.0
    for i in range(count):
        level = correlation * level + generator.normal(0, 0.02)
        noise[i] = level
    return np.exp(noise)


def test_ratio_intervals_cover_under_autocorrelated_noise():
    """The noise of neighbouring rounds correlates at 0.7; drawing single rounds would cover far less."""
    generator = np.random.default_rng(11)
    hits = {"blocks": 0, "single": 0, "groups": 0}
    for _ in range(200):
        rounds = correlated_rounds(generator, 152, 0.7)
        options = {"blocks": {}, "single": {"block": 1}, "groups": {"groups": np.repeat(np.arange(8), 19)}}
        for name, option in options.items():
            _, low, high = bootstrap_ratio(np.ones(152), rounds, **option)
            hits[name] += low <= 1.0 <= high
    assert hits["groups"] >= 180 and hits["blocks"] >= 168 and hits["single"] < 150, hits


def test_ratio_intervals_know_that_another_instance_might_have_shown_another_ratio():
    """Instances differ by 0.6 %, rounds of one by 1 %: taking rounds as alike covers less often than it says."""
    generator = np.random.default_rng(13)
    hits = {True: 0, False: 0}
    groups = np.repeat(np.arange(8), 12)
    for _ in range(200):
        rounds = np.exp(generator.normal(0, 0.006, 8)[groups] + generator.normal(0, 0.01, 96))
        for grouped in hits:
            _, low, high = bootstrap_ratio(np.ones(96), rounds, groups=groups if grouped else None, block=4)
            hits[grouped] += low <= 1.0 <= high
    assert hits[True] >= 178 and hits[False] < hits[True] - 10, hits


@given(st.floats(0.1, 10), st.lists(st.floats(0.5, 2), min_size=2, max_size=40))
def test_the_ratio_scales_with_the_candidate(factor, rounds):
    base = np.array(rounds)
    assert bootstrap_ratio(base, base * factor) == pytest.approx((factor,) * 3)


def test_calibration_error_by_hand():
    # Two in the bin of 0.9 with one right: gap 0.4, weight 2/4; 0.6 right: gap 0.4; 1.0 right: gap 0.
    assert calibration_error(np.array([0.9, 0.9, 0.6, 1.0]), np.array([1, 0, 1, 1])) == pytest.approx(0.3)


def test_calibrated_confidence_has_a_small_error():
    generator = np.random.default_rng(12)
    confidence = generator.uniform(0.3, 1, 100_000)
    assert calibration_error(confidence, generator.random(100_000) < confidence) < 0.01
    assert calibration_error(confidence, np.ones(100_000)) == pytest.approx(0.35, abs=0.01)
