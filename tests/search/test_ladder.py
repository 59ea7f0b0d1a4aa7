"""The ladder of budgets and the brackets of Hyperband, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.search._schedule.ladder import brackets, ladder


def test_the_published_table_by_hand():
    """9 to 729, eta 3: 81 27 9 3 1, then 27 9 3 1, 9 3 1, 6 2 and 5."""
    assert ladder(9, 729) == (9, 27, 81, 243, 729)
    table = {bracket.rungs: bracket.sizes for bracket in brackets(5)}
    assert table == {
        (0, 1, 2, 3, 4): (81, 27, 9, 3, 1),
        (1, 2, 3, 4): (27, 9, 3, 1),
        (2, 3, 4): (9, 3, 1),
        (3, 4): (6, 2),
        (4,): (5,),
    }


def test_exact_powers_keep_all_their_rungs():
    """Floating logarithms give five rungs and three: log(243) / log(3) is 4.999..."""
    assert int(math.log(243) / math.log(3)) == 4
    assert ladder(1, 243) == (1, 3, 9, 27, 81, 243)
    assert ladder(1, 1000, 10) == (1, 10, 100, 1000)


@given(st.integers(1, 50), st.integers(2, 5), st.integers(1, 6), st.integers(0, 40))
def test_every_rung_is_eta_times_the_one_below(low, eta, rungs, more):
    high = low * eta**rungs + more
    found = ladder(float(low), float(high), eta)
    assert found[-1] == high and low <= found[0] < low * eta
    assert all(above == pytest.approx(below * eta) for below, above in itertools.pairwise(found))
    whole = ladder(low, high, eta)
    assert len(whole) == len(found) and all(isinstance(rung, int) for rung in whole)
    assert all(abs(a - b) <= 0.5 for a, b in zip(whole, found, strict=True)) and len(set(whole)) == len(whole)


@given(st.integers(1, 8), st.integers(2, 5))
def test_brackets_shrink_by_eta_and_end_at_the_top(rungs, eta):
    plan = brackets(rungs, eta)
    assert len(plan) == rungs
    for bracket in plan:
        assert bracket.rungs[-1] == rungs - 1 and len(bracket.rungs) == len(bracket.sizes)
        for before, after in zip(bracket.sizes, bracket.sizes[1:], strict=False):
            assert after == max(1, before // eta)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ((0, 9), "min=0 must be a number above 0"),
        ((9, 9), "min=9 equals max"),
        ((10, 9), "min=10 is above max=9"),
        ((1, math.inf), "max=inf must be a number"),
        ((1, "9"), "max='9' must be a number"),
        ((1, 9, 1), "eta=1 must be a whole number of 2 or more"),
        ((1, 9, 2.5), "eta=2.5 must be"),
    ],
)
def test_bad_input(how, said):
    with pytest.raises(InputError, match=said):
        ladder(*how)


def test_a_budget_is_what_is_written():
    """0.1 is a tenth, though in binary it is a little more."""
    assert ladder(0.1, 0.9) == pytest.approx((0.1, 0.3, 0.9)) and ladder(0.05, 0.45) == pytest.approx(
        (0.05, 0.15, 0.45)
    )
    assert ladder(0.2, 1.8) == pytest.approx((0.2, 0.6, 1.8))
    with pytest.raises(InputError, match=r"min=40 leaves a single rung .* at most min=27"):
        ladder(40, 81)
