"""Paired latencies: verdicts by hand, on made-up clocks, and on real files."""

from types import SimpleNamespace

import numpy as np
import pytest

from paretune.errors import InputError, RunError
from paretune.measure import _latency, latency
from paretune.measure._latency import Timed, summarise, verdict
from paretune.target import Target


@pytest.mark.parametrize(
    ("low", "high", "noise", "expected"),
    [
        (0.90, 0.979, 1.0, "faster"),
        (0.90, 0.98, 1.0, "same"),
        (1.021, 1.1, 1.0, "slower"),
        (1.02, 1.1, 1.0, "same"),
        (0.97, 1.03, 1.0, "same"),
        (0.25, 0.36, 1.0, "too noisy"),  # clearly faster, but not known to 0.1
        (0.29, 0.31, 1.21, "too noisy"),
        (0.29, 0.31, 1.2, "faster"),
    ],
)
def test_verdicts_at_their_edges(low, high, noise, expected):
    assert verdict(low, high, noise) == expected


def timed(*columns, repeats=1):
    rounds = np.stack([np.asarray(column, float) for column in columns], axis=1)
    calls = tuple(np.repeat(rounds[:, i], repeats) for i in range(rounds.shape[1]))
    return Timed(rounds, calls, np.arange(len(rounds)) * 4 // len(rounds))


def test_summary_by_hand():
    base, half = summarise(timed([2.0, 2.2, 2.0, 2.2], [1.0, 1.1, 1.0, 1.1]))
    assert (base.ratio, base.ratio_low, base.ratio_high, base.verdict) == (1.0, 1.0, 1.0, None)
    assert (half.ratio, half.ratio_low, half.ratio_high) == pytest.approx((0.5, 0.5, 0.5))
    assert (half.median_ms, half.min_ms, half.rounds) == (pytest.approx(1.05), 1.0, 4)
    assert half.p99_ms == pytest.approx(1.1)
    assert base.noise == half.noise == pytest.approx(2.1 / 2.0)
    assert half.verdict == "faster"


def test_pairing_sees_through_a_machine_that_slows_down():
    """The clock halves within the run; the ratio of every round is still 1."""
    drift = np.linspace(1.0, 1.35, 40)
    assert summarise(timed(drift, drift))[1].ratio == 1.0
    wandering = np.repeat([1.0, 1.5], [10, 30])
    assert summarise(timed(wandering, wandering * 0.5))[1].verdict == "too noisy"


def test_stretches_follow_each_other_with_instances_of_their_own():
    both = timed([1.0, 2.0], [3.0, 4.0]).then(timed([5.0, 6.0], [7.0, 8.0]))
    assert both.rounds.tolist() == [[1, 3], [2, 4], [5, 7], [6, 8]]
    assert both.calls[1].tolist() == [3, 4, 7, 8]
    assert len(set(both.instances)) == 4


@pytest.fixture
def stretches(monkeypatch):
    """Let `latency` see made-up stretches; return the list to fill."""
    queue = []
    monkeypatch.setattr(_latency, "_stretch", lambda *_: queue.pop(0))
    return queue


def test_a_wandering_stretch_is_dropped_and_timed_again(stretches):
    stretches += [timed([1.0, 2.0, 2.0], [1.0, 2.0, 2.0]), timed([1.0] * 5, [0.5] * 5)]
    assert latency(["a", "b"], Target())[1].rounds == 5
    assert stretches == []


def test_a_wide_interval_gets_more_rounds(stretches):
    wide, narrow = timed([1.0] * 24, [0.4] * 12 + [0.6] * 12), timed([1.0] * 24, [0.5] * 24)
    assert summarise(wide)[1].verdict == "too noisy"
    stretches += [wide, narrow, narrow, narrow]
    result = latency(["a", "b"], Target())[1]
    assert result.rounds == 72 and result.verdict == "faster"
    assert len(stretches) == 1


def test_what_is_clearly_slower_is_not_timed_again_to_know_by_how_much(stretches):
    stretches += [timed([1.0] * 24, [4.0] * 12 + [6.0] * 12)] * 2
    assert latency(["a", "b"], Target())[1].verdict == "too noisy"
    assert len(stretches) == 1


def test_it_gives_up_after_five_stretches(stretches):
    stretches += [timed([1.0, 2.0, 2.0], [1.0, 2.0, 2.0])] * 6
    assert latency(["a", "b"], Target())[1].verdict == "too noisy"
    assert len(stretches) == 1


def test_every_round_times_every_engine_and_every_second_one_backwards():
    log = []
    calls = [lambda name=name: log.append(name) for name in "abc"]
    seen = _latency._rounds(calls, [1, 1, 1], 4, np.random.default_rng(0))
    rounds = ["".join(log[i : i + 3]) for i in range(0, 12, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert rounds[1] == rounds[0][::-1] and rounds[3] == rounds[2][::-1]
    assert seen.rounds.shape == (4, 3) and all(len(times) == 4 for times in seen.calls)


def test_a_larger_product_is_slower_and_says_so(product):
    small, large = latency([product(32), product(512)], Target(), seconds=0.3)
    assert large.ratio > 3 and large.ratio_low <= large.ratio <= large.ratio_high
    assert large.verdict in ("slower", "too noisy")  # a ratio far above 1 is seldom known to 0.1
    assert large.min_ms <= large.median_ms <= large.p99_ms
    assert small.median_ms < large.median_ms and small.verdict is None


def test_a_file_against_itself_is_neither_faster_nor_slower(product):
    path = product(256)
    for seen in latency([path, path, path], Target(), seconds=0.3)[1:]:
        assert seen.verdict in ("same", "too noisy")


def test_rounds_are_exactly_so_many(relu):
    assert [seen.rounds for seen in latency([relu, relu], Target(batch=2), rounds=5)] == [5, 5]
    assert latency([relu], Target(), rounds=1)[0].rounds == 1


def test_an_engine_that_writes_into_its_input_is_caught(relu, monkeypatch):
    def bind(feeds):
        return lambda: feeds["x"].fill(2)

    engine = _latency.open_engine(relu, Target())
    monkeypatch.setattr(
        _latency, "open_engine", lambda *_: SimpleNamespace(inputs=engine.inputs, outputs=("y",), bind=bind)
    )
    with pytest.raises(RunError, match=r"relu.onnx: the runtime overwrote its input 'x'"):
        latency([relu], Target(), rounds=1)


def test_the_callers_arrays_are_never_handed_to_an_engine(relu, monkeypatch):
    given = np.ones((1, 3), np.float32)
    seen = []
    engine = _latency.open_engine(relu, Target())

    def bind(feeds):
        seen.append(feeds["x"])
        return engine.bind(feeds)

    monkeypatch.setattr(_latency, "open_engine", lambda *_: SimpleNamespace(inputs=engine.inputs, bind=bind))
    latency([relu, relu], Target(), rounds=1, inputs={"x": given})
    assert len(seen) == 2 and not any(np.shares_memory(array, given) for array in seen)
    assert not np.shares_memory(*seen)


def test_no_file_is_told():
    with pytest.raises(InputError, match="give at least one file; the first is the baseline"):
        latency([], Target())


def test_a_file_that_fails_on_the_example_names_itself(write):
    from onnx import helper

    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    path = write("odd.onnx", {"x": ["batch", "n"]}, nodes)
    with pytest.raises(InputError, match=r"odd.onnx does not run on the example input: "):
        latency([path], Target(), rounds=1, inputs={"x": np.ones((1, 3))})
