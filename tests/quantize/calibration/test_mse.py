from __future__ import annotations

import numpy as np
import pytest

from paretune.quantize import Histogram
from paretune.quantize._grid import affine, round_trip
from paretune.quantize.calibration import minmax, mse
from paretune.quantize.calibration._mse import expected_error


def histogram(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


def error(values: np.ndarray, low: float, high: float) -> float:
    return float(np.square(round_trip(values, *affine(low, high)) - values).mean())


def test_weighs_an_outlier_against_the_grid_by_hand():
    """One value of 40 among a million in [0, 1]: minimise (40 - h)^2 / 1e6 + (h / 255)^2 / 12."""
    values = np.concatenate([np.random.default_rng(0).uniform(0.001, 1, size=1_000_000), [40.0]])
    by_hand = 40 / (1 + 1e6 / (12 * 255**2))
    low, high = mse(histogram(values))
    assert low == 0 and high == pytest.approx(by_hand, rel=0.15)  # the minimum is flat
    assert error(values, low, high) <= 1.005 * error(values, 0, by_hand)
    assert error(values, low, high) < 0.6 * error(values, *minmax(histogram(values)))


def test_keeps_all_of_an_even_distribution():
    values = np.random.default_rng(0).uniform(0, 1, size=20_000)
    low, high = mse(histogram(values))
    assert low == 0 and high == pytest.approx(1.0, abs=0.011)


@pytest.mark.parametrize("seed", range(3))
def test_is_as_good_as_every_pair_of_ends_tried_on_the_values_themselves(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=4_000) * np.where(rng.random(4_000) < 0.5, 1.0, 0.3)
    found = error(values, *mse(histogram(values)))
    ends = np.linspace(0.05, 1.0, 30)
    best = min(error(values, a * values.min(), b * values.max()) for a in ends for b in ends)
    assert found <= 1.05 * best


def test_a_tensor_that_is_always_zero_has_no_range():
    assert mse(histogram(np.zeros(4))) == (0.0, 0.0)


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (-0.2, 0.7), (0.0, 2.0)])
def test_the_integral_over_a_bin_is_the_mean_over_many_values_in_it(ends):
    edges, counts = np.linspace(-1, 3, 41), np.arange(40) % 7
    inside = (np.arange(4000) + 0.5) / 4000
    spread = edges[:-1, None] + inside * np.diff(edges)[:, None]
    expected = counts @ np.square(round_trip(spread, *affine(*ends)) - spread).mean(1)
    assert expected_error(edges, counts, *ends) == pytest.approx(expected, rel=1e-3)
