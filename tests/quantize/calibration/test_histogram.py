from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretune.errors import InputError
from paretune.quantize import Histogram
from paretune.quantize.calibration._histogram import BINS

VALUES = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def histogram(*parts: object) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(np.asarray(part, dtype=np.float32))
    return made


@settings(deadline=None, max_examples=50)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_every_value_lies_in_the_bin_that_counted_it_whatever_order_the_range_grew_in(parts):
    made = histogram(*parts)
    values = np.concatenate(parts).astype(np.float64)
    rest = values[values != 0]
    assert made.total == values.size and made.zeros == values.size - rest.size
    assert (made.low, made.high) == (values.min(), values.max())
    if rest.size:
        # an independent count over the final edges; a value within rounding of an edge may fall on either side
        index = np.floor(rest / made.width).astype(np.int64) - made.first
        assert index.min() >= 0 and index.max() < BINS
        expected = np.cumsum(np.bincount(index, minlength=BINS))
        near = np.abs(rest / made.width - np.rint(rest / made.width)) < 1e-9
        assert np.abs(np.cumsum(made.counts) - expected).max() <= near.sum()


def test_doubling_merges_neighbours_without_losing_a_count():
    made = histogram(np.linspace(0.001, 1, 1000))
    width = made.width
    made.add([100.0])
    assert np.log2(made.width / width) == pytest.approx(round(np.log2(made.width / width)))
    assert made.counts.sum() == 1001
    below = made.counts[made.edges()[1:] <= 1 + made.width].sum()
    assert below == 1000


def test_memory_does_not_grow_with_the_data():
    made = Histogram()
    rng = np.random.default_rng(0)
    for scale in (1, 10, 1e4, 1e-3):
        made.add(rng.normal(scale=scale, size=5000))
    assert made.counts.shape == (BINS,) and made.total == 20_000


def test_at_least_a_quarter_of_the_bins_spans_the_data():
    made = histogram([-0.3, 0.2], [5.0], [-77.0, 41.0])
    filled = np.flatnonzero(made.counts)
    assert filled[-1] - filled[0] >= BINS // 4


def test_a_constant_tensor_and_an_empty_one_are_counted():
    assert histogram(np.full(7, 3.0)).counts.sum() == 7
    zero = histogram(np.zeros(5))
    assert (zero.total, zero.zeros, zero.low, zero.high) == (5, 5, 0.0, 0.0)
    assert histogram(np.zeros((0, 3))).total == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_nothing_is_counted(bad):
    made = histogram([1.0])
    with pytest.raises(InputError, match="NaN or infinite"):
        made.add(np.array([0.5, bad]))
    assert made.total == 1
