import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.train._schedule import rate


def test_warm_up_then_cosine_by_hand():
    rates = [rate(step, 6, lr=2.0, warmup=2) for step in range(6)]
    # climbs by halves; then 2 * (1 + cos(pi * k / 4)) / 2 for k = 0, 1, 2, 3
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.7071068, 1.0, 0.2928932])


def test_constant_stays_after_warm_up():
    assert [rate(s, 4, lr=0.3, warmup=3, schedule="constant") for s in range(4)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.3]
    )


@given(st.integers(2, 200), st.data())
def test_never_zero_never_above_lr_and_falls_after_warm_up(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    rates = [rate(step, total, lr=0.1, warmup=warmup) for step in range(total)]
    assert all(0 < r <= 0.1 for r in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
