"""What every calibration keeps, ours or a stranger's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretune.methods import describe, registry
from paretune.quantize import Histogram


@pytest.mark.parametrize("name", registry("calibrations"))
@settings(deadline=None, max_examples=50)
@given(values=arrays(np.float32, st.integers(1, 80), elements=st.floats(-1e4, 1e4, width=32)))
def test_the_range_holds_zero_and_lies_within_what_was_seen(name, values):
    histogram = Histogram()
    histogram.add(values)
    counts = histogram.counts.copy()
    low, high = registry("calibrations")[name](histogram)
    assert min(0.0, float(values.min())) <= low <= 0 <= high <= max(0.0, float(values.max()))
    assert np.array_equal(histogram.counts, counts), "a calibration must not change the histogram"


@pytest.mark.parametrize("name", registry("calibrations"))
def test_scales_with_its_data(name):
    values = np.random.default_rng(0).normal(size=5_000).astype(np.float32)
    one, two = Histogram(), Histogram()
    one.add(values)
    two.add(values * 2)
    choose = registry("calibrations")[name]
    assert np.allclose(np.multiply(choose(one), 2), choose(two), rtol=1e-6)


def test_each_names_its_source():
    assert all(method.source for method in describe("calibrations"))
