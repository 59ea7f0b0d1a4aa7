"""The removal trees of neighbour pruning in the report."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from paretune.report._trees import removal_trees

SVG = "{http://www.w3.org/2000/svg}"


def grown(group: str, *rows: tuple[int, int | None, int | None, float], **fields: Any) -> dict[str, Any]:
    removed = [dict(zip(("unit", "parent", "into", "similarity"), row, strict=True)) for row in rows]
    return {"kind": "tree", "step": "prune.neighbours", "group": group, "removed": removed, **fields}


def test_a_dot_for_each_unit_and_an_edge_to_what_led_to_it() -> None:
    (made,) = removal_trees([grown("fc1", (3, None, 7, 0.9), (5, 3, 7, 0.8), (1, 5, None, 0.0))], 100)
    (drawing,) = made.drawings
    picture = ElementTree.fromstring(drawing)
    # XML reads a line feed of an attribute as a space
    tips = [node.attrib["data-tip"] for node in picture.iter() if "data-tip" in node.attrib]
    assert tips == [
        "unit 3 unit 7 takes over, similarity 0.9",
        "unit 5 unit 7 takes over, similarity 0.8",
        "unit 1 nothing takes over, similarity 0",
    ]
    assert len(list(picture.iter(f"{SVG}polyline"))) == 2
    assert made.title == "prune.neighbours, removal trees" and made.caption.startswith("1 group of units;")


def test_another_pruning_has_trees_of_its_own_and_the_largest_are_drawn() -> None:
    row = (0, None, 1, 0.5)
    events = [grown(f"g{i}", *[row] * (i + 1)) for i in range(8)] + [grown("g0", row)]
    first, second = removal_trees(events, 100)
    assert first.caption.startswith("6 of 8 groups") and len(first.drawings) == 6 and len(second.drawings) == 1
    assert "g7" in first.drawings[-1] and not any('aria-label="g0:' in drawing for drawing in first.drawings)


def test_a_large_tree_is_shortened() -> None:
    (made,) = removal_trees([grown("g", *((i, i - 1 if i else None, 500, 0.5) for i in range(300)))], 50)
    assert made.drawings[0].count("data-tip") == 50


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["group", "removed", "step"]),
            st.none() | st.text(max_size=2)
            | st.lists(st.fixed_dictionaries({"unit": st.integers(0, 3), "parent": st.none() | st.integers(0, 3),
                                              "into": st.none(), "similarity": st.floats()}), max_size=3),
        )
    )
)  # fmt: skip
def test_whatever_an_event_holds_it_is_drawn_or_left_out(events: list[dict[str, Any]]) -> None:
    for made in removal_trees([{"kind": "tree", **event} for event in events], 10):
        assert all(ElementTree.fromstring(drawing) is not None for drawing in made.drawings)
