from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paretune.report import front

ROWS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


def test_the_front_of_five_by_hand() -> None:
    rows = [(1.0, 0.983), (0.31, 0.931), (0.312, 0.981), (0.143, 0.980), (1.05, 0.982)]
    # 1 is beaten by 3 (cheaper and better), 4 by 0.
    assert front(rows) == [3, 2, 0]


def test_a_smaller_value_may_be_the_better_one() -> None:
    assert front([(1.0, 0.1), (0.5, 0.2), (0.6, 0.3)], greater_is_better=False) == [1, 0]


def test_equal_rows_do_not_beat_each_other() -> None:
    assert sorted(front([(1.0, 2.0), (1.0, 2.0)])) == [0, 1]


@given(ROWS, st.booleans())
def test_a_row_is_on_the_front_exactly_if_no_other_beats_it(rows: list[tuple[float, float]], up: bool) -> None:
    sign = 1 if up else -1

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b

    expected = [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]
    assert sorted(front(rows, greater_is_better=up)) == expected
