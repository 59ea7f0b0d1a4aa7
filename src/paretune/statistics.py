"""Intervals and paired tests, on arrays: what a number measured on n samples or rounds is known to.

Every interval is at 95 %. Fractions of samples use score intervals (Wilson, Tango), which hold at 0 and at 1
and for few samples, where the usual "value plus or minus two standard errors" does not; everything else is
bootstrapped with a fixed seed, so that the same rows give the same interval. Nothing here knows a model.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17, 1998, equations 5 to 8.
Efron, "Better bootstrap confidence intervals", JASA 82, 1987 (BCa).
Politis and Romano, "A circular block-resampling procedure for stationary data", 1992.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from paretune.metrics import Metric

Z = NormalDist().inv_cdf(0.975)
Z_POWER = NormalDist().inv_cdf(0.8)
"""A planned comparison is to succeed four times in five."""
RESAMPLES = 1000
SMALL = 2000
"""Up to here BCa; above, a smooth statistic is normal enough for its standard error to say it all."""
LARGEST_RESAMPLE = 20_000
MOST_SAMPLES = 10**9

Statistic = Callable[[np.ndarray], float]
"""Row numbers (with repetition) -> a number."""


def metric_interval(metric: Metric, rows: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of a metric over samples.

    rows: (samples, columns), see `Metric.rows`. Wilson's interval where the metric is correct/total, else a
    bootstrap over samples. One sample of anything but correct/total shows no spread: its interval is a point.
    """
    if len(rows) == 0:
        raise ValueError("an interval needs at least 1 sample; got 0")
    if _right_or_wrong(metric, rows):
        return wilson(float(rows[:, 0].sum()), len(rows))
    if _reads_only_the_mean(metric, rows):
        return _interval_of_means(lambda means: _at_mean(metric, means[0]), rows[:, :1])
    return _bootstrap(lambda index: metric.value(rows[index]), len(rows))


def wilson(right: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a fraction: `right` of `n`.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    centre = (right + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * math.sqrt(max(right * (n - right) / n + Z * Z / 4, 0.0))
    return (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)


def paired_difference(metric: Metric, rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[float, float, float]:
    """Return (difference, low, high) of metric(b) - metric(a) on the same samples, with its 95 % interval.

    Tango's score interval where the metric is correct/total: it leaves out 0 exactly where McNemar's test
    (normal form) is significant at 5 %. Else a bootstrap that draws whole pairs.
    """
    _check_pairs(rows_a, rows_b)
    difference = metric.value(rows_b) - metric.value(rows_a)
    if _right_or_wrong(metric, rows_a) and _right_or_wrong(metric, rows_b):
        lost, won = discordant(rows_a, rows_b)
        return difference, *tango(won, lost, len(rows_a))
    if _reads_only_the_mean(metric, rows_a) and _reads_only_the_mean(metric, rows_b):
        columns = np.stack([rows_a[:, 0], rows_b[:, 0]], axis=1)
        ends = _interval_of_means(lambda means: _at_mean(metric, means[1]) - _at_mean(metric, means[0]), columns)
        return difference, *ends
    ends = _bootstrap(lambda index: metric.value(rows_b[index]) - metric.value(rows_a[index]), len(rows_a))
    return difference, *ends


def discordant(rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[int, int]:
    """Return (right in a and wrong in b, wrong in a and right in b) of two columns of 0 and 1."""
    a, b = rows_a[:, 0] > 0.5, rows_b[:, 0] > 0.5
    return int(np.sum(a & ~b)), int(np.sum(~a & b))


def tango(won: float, lost: float, n: float, z: float = Z) -> tuple[float, float]:
    """Return Tango's score interval of the paired difference (won - lost) / n.

    won, lost: pairs that are right only in the second, only in the first; any other pair agrees.

    >>> [round(end, 4) for end in tango(1, 5, 50)]
    [-0.198, 0.0213]
    """

    def score(delta: float) -> float:
        linear = -won - lost + (2 * n - won + lost) * delta
        constant = -lost * delta * (1 - delta)
        q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        gap = won - lost - n * delta
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    estimate = (won - lost) / n
    low = -1.0 if score(-1.0) <= z else _root(lambda delta: score(delta) - z, -1.0, estimate)
    high = 1.0 if score(1.0) >= -z else _root(lambda delta: score(delta) + z, estimate, 1.0)
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p-value that pairs are lost as often as won.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12,
    1947; exact: a binomial test of the pairs that disagree.

    >>> round(mcnemar(5, 1), 5)
    0.21875
    """
    n, smaller = lost + won, min(lost, won)
    if n == 0:
        return 1.0
    steps = np.arange(1, smaller + 1, dtype=np.float64)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log((n - steps + 1) / steps))]) - n * math.log(2)
    return min(1.0, 2 * float(np.exp(log_terms).sum()))


def samples_needed(metric: Metric, rows_a: np.ndarray, rows_b: np.ndarray, bound: float) -> int | None:
    """Return how many samples would tell on which side of `bound` metric(b) - metric(a) lies.

    It assumes that the difference seen is the true one, and asks for a chance of 80 % that the 95 % interval
    leaves the bound out. None where no number of samples would do (the difference is the bound itself, or
    more than 1e9 are needed).
    """
    difference, low, high = paired_difference(metric, rows_a, rows_b)
    n = len(rows_a)
    distance = abs(bound - difference)
    if distance == 0:
        return None
    if _right_or_wrong(metric, rows_a) and _right_or_wrong(metric, rows_b):
        lost, won = discordant(rows_a, rows_b)
        return _smallest(lambda m: _outside(bound, tango(won * m / n, lost * m / n, m, Z + Z_POWER)))
    half = (high - difference if bound > difference else difference - low) * (Z + Z_POWER) / Z
    needed = math.ceil(n * (half / distance) ** 2)
    return needed if needed <= MOST_SAMPLES else None


def bootstrap_ratio(
    rounds_a: np.ndarray,
    rounds_b: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    block: int | None = None,
) -> tuple[float, float, float]:
    """Return (ratio, low, high): the median over rounds of b / a, with its 95 % interval.

    rounds_a, rounds_b: (rounds,) what two things took in the same rounds, in the order in which they were
    timed. Neighbouring rounds are alike (another process runs, the clock slows), so whole blocks of rounds are
    drawn, wrapping around the end; block: rounds in one, twice the cube root of their number if not given.
    groups: (rounds,) which instance each round timed, in one run of equal numbers each; then instances are drawn
    first, and blocks within them, so that the interval knows what another instance might have shown.
    """
    _check_pairs(rounds_a, rounds_b)
    ratios = np.asarray(rounds_b, np.float64) / np.asarray(rounds_a, np.float64)
    labels = np.zeros(len(ratios), int) if groups is None else groups
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    most = int(counts.max())
    length = min(block or math.ceil(2 * most ** (1 / 3)), most)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(first), size=(RESAMPLES, len(first), 1))
    starts = generator.random((RESAMPLES, len(first), -(-most // length))) * counts[drawn]
    within = (starts.astype(int)[..., None] + np.arange(length)).reshape(RESAMPLES, len(first), -1)[..., :most]
    index = first[drawn] + within % counts[drawn]
    medians = np.median(ratios[index].reshape(RESAMPLES, -1), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: mean |accuracy - confidence| over equal bins, weighted by size.

    confidence: (samples,) in [0, 1]; correct: (samples,) of 0 and 1. A bin holds its upper edge.
    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3, arXiv:1706.04599.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.6]), np.array([1, 0, 1])), 4)
    0.4
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _right_or_wrong(metric: Metric, rows: np.ndarray) -> bool:
    return metric.fraction and rows.shape[1] == 1 and bool(np.all((rows == 0) | (rows == 1)))


def _check_pairs(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"a paired comparison needs the same samples twice; got {len(a)} and {len(b)}")


def _at_mean(metric: Metric, mean: float) -> float:
    return metric.value(np.array([[mean]], dtype=np.float64))


def _reads_only_the_mean(metric: Metric, rows: np.ndarray) -> bool:
    """Say whether the metric is a function of its one column's mean (accuracy, mse, rmse): seen, not declared."""
    if rows.shape[1] != 1:
        return False
    half = rows[: (len(rows) + 1) // 2]
    return all(
        math.isclose(
            metric.value(part), _at_mean(metric, float(part.mean(dtype=np.float64))), rel_tol=1e-4, abs_tol=1e-9
        )
        for part in (rows, half)
    )


def _interval_of_means(function: Callable[[np.ndarray], float], columns: np.ndarray) -> tuple[float, float]:
    """Return the interval of function(means of the columns); columns: (samples, k)."""
    table = np.asarray(columns, np.float64)
    n = len(table)
    if n <= SMALL:
        return _bootstrap(lambda index: function(table[index].mean(axis=0)), n)
    # The mean of thousands of samples is normal: draw it, instead of drawing samples again and again.
    covariance = np.cov(table, rowvar=False).reshape(table.shape[1], -1) / n
    draws = np.random.default_rng(0).multivariate_normal(table.mean(axis=0), covariance, RESAMPLES)
    low, high = np.quantile([function(means) for means in draws], (0.025, 0.975))
    return float(low), float(high)


def _bootstrap(statistic: Statistic, n: int) -> tuple[float, float]:
    """Return the bootstrap interval of a statistic of row numbers; its time is bounded for any n."""
    generator = np.random.default_rng(0)
    value = statistic(np.arange(n))
    if n > SMALL:
        # m of n: a resample of m rows spreads sqrt(n / m) times as wide as one of all n.
        m = min(n, LARGEST_RESAMPLE)
        draws = [statistic(generator.integers(0, n, m)) for _ in range(200)]
        error = float(np.std(draws, ddof=1)) * math.sqrt(m / n)
        return value - Z * error, value + Z * error
    draws = [statistic(generator.integers(0, n, n)) for _ in range(RESAMPLES)]
    left_out = [statistic(np.delete(np.arange(n), i)) for i in range(n)] if n > 1 else [value]
    return _bca(value, np.array(draws), np.array(left_out))


def _bca(value: float, draws: np.ndarray, left_out: np.ndarray) -> tuple[float, float]:
    """Return Efron's bias-corrected and accelerated ends of bootstrap draws (1987, equations 2.3 and 6.6)."""
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    bias = NormalDist().inv_cdf(float(np.clip(below, 1e-3, 1 - 1e-3)))
    influence = left_out.mean() - left_out
    spread = float(np.sum(influence**2)) ** 1.5
    acceleration = float(np.sum(influence**3)) / (6 * spread) if spread > 0 else 0.0
    levels = []
    for z in (-Z, Z):
        shifted = bias + z
        levels.append(NormalDist().cdf(bias + shifted / max(1 - acceleration * shifted, 1e-6)))
    low, high = np.quantile(draws, levels)
    return float(low), float(high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses 0, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _outside(bound: float, interval: tuple[float, float]) -> bool:
    return not interval[0] <= bound <= interval[1]


def _smallest(holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number that holds, where every larger one holds too; None above 1e9."""
    high = 1
    while not holds(high):
        high *= 2
        if high > MOST_SAMPLES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
