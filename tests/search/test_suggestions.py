"""What comes next: another one for every turn, the last one where there are fewer, an end where there is none."""

from __future__ import annotations

import pytest

from paretune.search import Exhausted, Int, Space
from paretune.search._results import Growing
from paretune.search._study.suggestions import Suggested, Suggestions
from paretune.search.samplers import Grid, Random

SPACE = Space({"x": Int(0, 2)})


def test_turns_of_a_grid_are_its_points_and_the_last_one_where_there_are_fewer():
    made, known = Suggestions(SPACE, Grid(), 0), Growing(1)
    assert [made.next(known, (), turn).config["x"] for turn in range(5)] == [0, 1, 2, 2, 2]
    for x in (0, 1, 2):
        made.add(Suggested(SPACE.row({"x": x}), {"x": x}, "grid", 0))
        if x < 2:
            assert made.next(known, (), 4).config["x"] == 2, "one that does not fit is none that was tried"
    with pytest.raises(Exhausted, match="all 3 points of the grid were tried"):
        made.next(known, ())


def test_no_configuration_comes_twice_and_what_is_missing_is_none_that_was_tried():
    made, known = Suggestions(SPACE, Random(), 0), Growing(1)
    made.add(Suggested(SPACE.row({"x": 0}), {}, "", 0))
    seen = []
    for _ in range(3):
        found = made.next(known, range(len(made)))
        seen.append(found.config["x"])
        made.add(Suggested(found.row, found.config, found.origin, 0))
    assert sorted(seen) == [0, 1, 2] and len(made) == 4 and made[1].config == {"x": seen[0]}
    with pytest.raises(Exhausted, match="all 3 configurations were tried"):
        made.next(known, ())
