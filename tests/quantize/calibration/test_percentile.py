from __future__ import annotations

import numpy as np
import pytest

from paretune.errors import InputError
from paretune.quantize import Histogram
from paretune.quantize.calibration import minmax, percentile


def histogram(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


@pytest.mark.parametrize("p", [90.0, 99.0, 99.9])
def test_agrees_with_sorting_to_one_bin(p):
    values = np.random.default_rng(0).normal(1.0, 2.0, size=50_000)
    made = histogram(values)
    low, high = percentile(made, percentile=p)
    tail = int(len(values) * (100 - p) / 200)
    ordered = np.sort(values)
    assert low <= ordered[tail] <= low + made.width * (1 + 1e-9)
    assert high - made.width * (1 + 1e-9) <= ordered[-1 - tail] <= high


def test_cuts_an_outlier_off_by_hand():
    values = np.concatenate([np.linspace(0.01, 1, 9_999), [50.0]])
    assert percentile(histogram(values), percentile=99.9)[1] == pytest.approx(1.0, abs=0.02)
    assert percentile(histogram(values), percentile=100) == minmax(histogram(values))


def test_the_zeros_of_a_relu_count():
    values = np.concatenate([np.zeros(9_000), np.linspace(0.001, 1, 1_000)])
    low, high = percentile(histogram(values), percentile=90)  # 5 % of 10,000 lie above the value number 9,500
    assert low == 0 and high == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("p", [50, 0, 100.5])
def test_a_percentage_out_of_range_names_the_rule(p):
    with pytest.raises(InputError, match=r"must be above 50 and at most 100; 99\.99 clips"):
        percentile(histogram(np.ones(3)), percentile=p)
