from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.quantize._grid import (
    affine,
    quantize_bias,
    quantize_weight,
    round_trip,
    scales_for_bias,
    weight_scales,
)

ENDS = st.floats(-1e4, 1e4, width=32)


def test_the_zero_point_is_the_nearest_whole_step():
    assert affine(-0.706, 1.844)[1] == 71  # 70.6 steps of 0.01
    assert affine(-0.704, 1.846)[1] == 70


def test_a_grid_by_hand():
    scale, zero_point = affine(-1.0, 1.55)
    assert scale == pytest.approx(0.01) and zero_point == 100
    assert round_trip(np.array([0.0, 0.014, -1.0, 9.0]), scale, zero_point) == pytest.approx(
        [0.0, 0.01, -1.0, 1.55]
    )


@settings(deadline=None)
@given(st.tuples(ENDS, ENDS).map(sorted), st.floats(0, 1))
def test_the_error_inside_the_range_is_at_most_half_a_step_and_zero_is_exact(ends, where):
    scale, zero_point = affine(*ends)
    low, high = min(ends[0], 0), max(ends[1], 0)
    assert 0 <= zero_point <= 255
    value = np.float64(low + where * (high - low))
    # the zero point is rounded to a whole step, which may move either end by half of one
    assert abs(round_trip(value, scale, zero_point) - value) <= float(scale) * 1.0001
    inside = np.clip(value, -zero_point * float(scale), (255 - zero_point) * float(scale))
    assert abs(round_trip(inside, scale, zero_point) - inside) <= float(scale) * 0.5001
    assert round_trip(np.float64(0), scale, zero_point) == 0


def test_a_range_without_extent_has_a_grid_all_the_same():
    assert affine(0.0, 0.0) == (1.0, 0)
    scale, _ = affine(0.0, 1e-40)
    assert scale > 0 and np.isfinite(1 / np.float32(scale))


def test_weights_by_hand():
    weight = np.array([[1.27, -0.635], [0.0, 0.0], [-2.54, 2.54]], np.float32)
    scales = weight_scales(weight, 0)
    assert scales == pytest.approx([0.01, 1.0, 0.02])  # an empty channel has scale 1
    assert quantize_weight(weight, scales, 0).tolist() == [[127, -64], [0, 0], [-127, 127]]
    assert weight_scales(weight, None) == pytest.approx(0.02)


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_weights_come_back_to_half_a_step_in_every_layout(axis):
    weight = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    scales = weight_scales(weight, axis)
    integers = quantize_weight(weight, scales, axis)
    wide = scales if axis is None else scales.reshape([-1 if a == axis else 1 for a in range(3)])
    assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() == 127
    assert (np.abs(integers * wide - weight) <= wide * 0.5001).all()


def test_seven_bits_cannot_saturate_the_sum_of_two_products():
    weight = np.random.default_rng(0).normal(size=(8, 30)).astype(np.float32)
    integers = quantize_weight(weight, weight_scales(weight, 0, 64), 0, 64).astype(int)
    assert np.abs(integers).max() == 64 and 2 * 255 * 64 < 2**15


def test_a_bias_beside_almost_empty_weights_does_not_overflow():
    weight = np.array([[1e-12], [1.0]], np.float32)
    bias = np.array([3.0, -2.0], np.float32)
    scales = scales_for_bias(weight_scales(weight, 0), bias, np.float32(0.02))
    steps = scales * np.float32(0.02)
    integers = quantize_bias(bias, steps)
    assert integers.dtype == np.int32 and integers * steps.astype(np.float64) == pytest.approx(bias, rel=1e-6)
    assert scales[1] == weight_scales(weight, 0)[1]  # the healthy channel keeps its own
