from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from paretune.report._labels import place_labels, shorten


@given(st.lists(st.tuples(st.floats(70, 500), st.floats(40, 300)), max_size=8))
def test_labels_cover_neither_each_other_nor_a_mark(at: list[tuple[float, float]]) -> None:
    placed = place_labels(at, ["candidate"] * len(at))
    boxes = []
    for label in filter(None, placed):
        x, y, anchor, text = label
        width = 6 * len(text)
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        boxes.append((left, y - 10, left + width, y + 2))
    boxes += [(x - 5, y - 5, x + 5, y + 5) for x, y in at] if len(set(at)) == len(at) else []
    labels = len([label for label in placed if label])
    for i, j in combinations(range(len(boxes)), 2):
        a, b = boxes[i], boxes[j]
        both_marks = i >= labels and j >= labels
        assert both_marks or not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def test_a_label_prefers_a_place_off_the_lines() -> None:
    (free,) = place_labels([(200, 200)], ["name"])
    (dodged,) = place_labels([(200, 200)], ["name"], avoid=[(200, 199, 400, 201)])
    assert free[2] == "start" and dodged[2] == "end"


def test_a_long_name_keeps_both_ends() -> None:
    assert shorten("pruned-0.50") == "pruned-0.50"
    assert shorten("abcdefghij", 7) == "abc…hij"
