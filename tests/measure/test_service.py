"""A service under load: queueing by hand, and what a user may type."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.measure import parse_deadline, parse_rate, serve
from paretune.measure._service import _answer, summarise
from paretune.target import Target


@pytest.mark.parametrize(("text", "value"), [("50/s", 50), ("600/min", 10), (" 7200 / h", 2), (0.5, 0.5), (3, 3)])
def test_rates(text, value):
    assert parse_rate(text) == value


@pytest.mark.parametrize(("text", "value"), [("20ms", 20), ("0.5 s", 500), ("250us", 0.25), (12, 12)])
def test_deadlines(text, value):
    assert parse_deadline(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["50", "0/s", "-1/s", "fast", "1.2.3/s", "50/day", "", 0, math.inf, True, None])
def test_bad_rates_are_told(text):
    with pytest.raises(InputError, match=f"rate '{text}' is no positive rate; write .* for example 50/s"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["20", "0ms", "-3ms", "soon", "20 m", "1..2s", 0, math.nan, False])
def test_bad_deadlines_are_told(text):
    with pytest.raises(InputError, match=f"deadline '{text}' is no positive time; write it .* for example 20ms"):
        parse_deadline(text)


def test_waiting_counts_from_when_a_request_was_due():
    """Calls of 20 ms, due every 10 ms: request k waits 10 k ms, and no answer hides that."""
    latencies, elapsed = _answer(lambda: time.sleep(0.02), 8, rate=100.0, longest=10.0)
    late = latencies - 20 - 10 * np.arange(8)
    assert np.all(late >= 0) and np.median(late) < 30
    assert 0.16 <= elapsed < 0.5


def test_a_service_with_time_to_spare_keeps_no_one_waiting():
    latencies, elapsed = _answer(lambda: None, 20, rate=200.0, longest=10.0)
    assert np.median(latencies) < 1.0
    assert elapsed >= 19 / 200


def test_a_service_that_drowns_is_cut_off_and_the_rest_never_answered():
    latencies, elapsed = _answer(lambda: time.sleep(0.02), 1000, rate=1000.0, longest=0.2)
    answered = int(np.isfinite(latencies).sum())
    assert 1 <= answered <= 11 and elapsed < 1.0


def test_summary_by_hand():
    seen = summarise(np.array([1.0, 2.0, 3.0, 30.0]), rate=10.0, deadline_ms=20.0, elapsed=0.4)
    assert (seen.sent, seen.served, seen.missed, seen.missed_fraction) == (4, 4, 1, 0.25)
    assert (seen.p50_ms, seen.p99_ms, seen.throughput) == (3.0, 30.0, 10.0)


@given(st.lists(st.floats(0.1, 100) | st.just(math.inf), min_size=1, max_size=50))
def test_unanswered_requests_are_missed_and_the_json_is_plain(latencies):
    seen = summarise(np.array(latencies), rate=1.0, deadline_ms=50.0, elapsed=1.0)
    assert seen.missed >= seen.sent - seen.served
    assert seen.p50_ms <= seen.p99_ms
    content = json.loads(json.dumps(seen.to_json(), allow_nan=False))
    assert content["p99_ms"] is None or content["p99_ms"] == seen.p99_ms


def test_a_fast_file_meets_its_deadline(relu):
    seen = serve(relu, rate="100/s", deadline="1s", seconds=0.3, target=Target(batch=2))
    assert (seen.sent, seen.served, seen.missed) == (30, 30, 0)
    assert 80 < seen.throughput < 110


def test_no_time_is_told(relu):
    with pytest.raises(InputError, match="serve: seconds=0 must be above 0"):
        serve(relu, rate=1, deadline=1, seconds=0)
