from __future__ import annotations

import pytest

from paretune.quantize import Histogram
from paretune.quantize.calibration import minmax


@pytest.mark.parametrize(
    ("values", "expected"),
    [([-2.0, 0.5, 3.0], (-2.0, 3.0)), ([1.0, 3.0], (0.0, 3.0)), ([-4.0, -1.0], (-4.0, 0.0))],
)
def test_is_what_was_seen_stretched_to_zero(values, expected):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert minmax(histogram) == expected
