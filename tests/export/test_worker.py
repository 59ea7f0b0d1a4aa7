from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.export._worker import INCOMPARABLE, relative_error


def test_by_hand():
    reference = np.float32([1.0, -4.0])
    assert relative_error(np.float32([1.0, -3.0]), reference) == 0.25  # |1| / |-4|
    assert relative_error(np.float32([1.0, -3.0]), reference, step=0.5) == 2.0  # |1| / 0.5
    assert relative_error(np.float32([0.5]), np.float32([0.0])) == 0.5  # nothing to relate it to


@pytest.mark.parametrize(
    ("got", "reference"),
    [
        ([math.nan], [1.0]),
        ([1.0], [math.nan]),
        ([math.inf], [-math.inf]),
        ([1.0, 2.0], [1.0]),
        ([math.inf], [1.0]),
    ],
)
def test_what_cannot_be_compared_is_no_agreement(got, reference):
    assert relative_error(np.float32(got), np.float32(reference)) == INCOMPARABLE


def test_equal_infinities_and_nans_agree():
    same = np.float32([math.inf, -math.inf, math.nan, 2.0])
    assert relative_error(same, same.copy()) == 0


@given(st.lists(st.integers(-800, 800), min_size=5, max_size=5).filter(any), st.floats(0.01, 100))
def test_the_error_does_not_depend_on_the_unit(eighths, scale):
    # eighths: numbers far from the ends of float32, so that scaling neither overflows nor vanishes
    values = np.float32(eighths) / 8
    other = values + 1
    scaled = relative_error((other * scale).astype(np.float32), (values * scale).astype(np.float32))
    assert scaled == pytest.approx(relative_error(other, values), rel=1e-4)


def test_the_worker_imports_no_torch():
    code = "import sys, paretune.export._worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
