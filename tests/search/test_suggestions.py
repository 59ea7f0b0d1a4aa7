"""What comes next: another one for every turn, the last one where there are fewer, an end where there is none."""

from __future__ import annotations

import pytest

from paretune.search import Categorical, Exhausted, Int, Space, minimize, when
from paretune.search._results import Growing
from paretune.search._space.space import key
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


@pytest.mark.parametrize("method", ["random", "bayes", {"hyperband": {"min": 1, "max": 3}}])
def test_few_configurations_of_what_look_like_many_are_run_once_each(method):
    """81 by their conditions, where the product of all counts is 59,049; and 199 of 40,000 by a rule."""
    space = Space(
        {"alg": Categorical(["a", "b", "c"])}
        | {f"{alg}{i}": Int(0, 2, when=when("alg", alg)) for alg in "abc" for i in range(3)}
    )
    result = minimize(lambda config, budget=None: len(config), space, method, 300)
    runs = [(key(trial.config), trial.budget) for trial in result.trials]
    assert len(runs) == len(set(runs)) and len({config for config, _ in runs}) == 81
    assert result.ended == "all 81 configurations were tried"


def test_a_rule_that_leaves_few_is_tried_whole():
    space = Space({"a": Int(0, 99), "b": Int(0, 99)}, forbid=["a != b"])
    result = minimize(lambda config: config["a"], space, "random", 300)
    assert len({key(trial.config) for trial in result.trials}) == len(result.trials) == 100
