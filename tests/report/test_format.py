from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.report import _format
from paretune.report._format import (
    MISSING,
    bytes_text,
    count_text,
    greater_is_better,
    interval_text,
    is_fraction,
    metric_text,
    milliseconds_text,
    narrow,
    plain_text,
    ratio_text,
    seconds_text,
)

SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(_format).attempted > 5
    assert doctest.testmod(_format).failed == 0


@given(st.integers(0, 10**14))
def test_bytes_read_back_to_three_digits(count: int) -> None:
    number, unit = bytes_text(count).split(" ")
    assert float(number) * SIZES[unit] == pytest.approx(count, rel=0.006)
    assert float(number) < 1000 or unit == "TB"


@given(st.floats(1e-4, 1e4))
def test_a_ratio_reads_back_to_two_digits_and_is_never_written_as_zero(ratio: float) -> None:
    text = ratio_text(ratio)
    assert re.fullmatch(r"\d+\.\d+x", text)
    assert float(text[:-1]) == pytest.approx(ratio, rel=0.06)


@given(st.floats(1e-4, 1e6))
def test_a_time_reads_back_whatever_its_unit(milliseconds: float) -> None:
    number, unit = milliseconds_text(milliseconds).split(" ")
    assert float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit] == pytest.approx(milliseconds, rel=0.006)


def test_durations_round_up_into_the_next_unit() -> None:
    assert seconds_text(59.96) == "1 min 0 s"
    assert seconds_text(3599.7) == "1 h 0 min"


def test_a_fraction_gains_a_digit_where_there_are_samples_for_it() -> None:
    assert metric_text(0.92637, {"name": "accuracy", "n": 10_000}) == "92.64 %"
    assert metric_text(0.92637, {"name": "accuracy", "n": 899}) == "92.6 %"


def test_a_metric_that_is_no_fraction_keeps_its_unit() -> None:
    assert metric_text(0.12345, {"name": "rmse", "n": 50}) == "0.1235"
    assert metric_text(0.5, {"name": "mine", "fraction": True, "n": 50}) == "50.0 %"


def test_the_direction_and_kind_come_from_the_summary_first_then_from_the_name() -> None:
    assert not greater_is_better({"name": "rmse"})
    assert greater_is_better({"name": "rmse", "greater_is_better": True})
    assert greater_is_better({"name": "never heard of"})
    assert is_fraction({"name": "top5"}) and not is_fraction({"name": "f1"})


def test_an_interval_is_narrowed_only_where_no_minus_sign_stands_in_it() -> None:
    described = {"name": "r2"}
    assert narrow(interval_text(0.25, 0.5, described)) == "0.25-0.5"
    assert narrow(interval_text(-0.25, 0.5, described)) == "-0.25 to 0.5"


@pytest.mark.parametrize("text", [bytes_text, count_text, ratio_text, milliseconds_text, seconds_text])
@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), "3", True])
def test_what_is_no_number_is_shown_as_missing(text, nothing) -> None:
    assert text(nothing) == MISSING


def test_any_json_value_has_one_line() -> None:
    assert plain_text({"a": [1, 0.25], "b": None, "c": True}) == "a: 1, 0.25, b: -, c: yes"
