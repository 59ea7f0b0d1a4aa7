from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.report import _axes
from paretune.report._axes import Axis, log_ticks, ticks


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(_axes).attempted > 0
    assert doctest.testmod(_axes).failed == 0


def test_an_axis_maps_its_ends_to_its_pixels_and_the_middle_between_them() -> None:
    assert [Axis(0, 10, 100, 200)(v) for v in (0, 5, 10, 99)] == [100, 150, 200, 200]
    assert Axis(1, 100, 0, 200, log=True)(10) == pytest.approx(100)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_numbers_inside_the_range(low: float, width: float) -> None:
    high = low + width
    if high == low:
        return
    found = ticks(low, high)
    slack = 1e-5 * (high - low) + 1e-9
    assert 1 <= len(found) <= 8
    assert all(low - slack <= value <= high + slack for value in found)


def test_log_ticks_are_1_2_and_5_times_powers_of_ten() -> None:
    assert log_ticks(150, 6000) == [200, 500, 1000, 2000, 5000]
    assert log_ticks(1, 1e5) == [1, 10, 100, 1000, 1e4, 1e5]
    assert log_ticks(1, 1e20) == pytest.approx([10.0**power for power in range(0, 21, 2)])


def test_the_largest_floats_have_axes_too() -> None:
    assert ticks(-1.7e308, 1.7e308) == pytest.approx([-1e308, 0.0, 1e308])
    assert Axis(-1.7e308, 1.7e308, 0, 100)(0.0) == 50.0
    assert log_ticks(1, 1.7e308)[0] == 1.0 and len(log_ticks(1, 1.7e308)) <= 11
