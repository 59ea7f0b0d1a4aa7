"""What is chosen on even images is told on odd ones."""

from __future__ import annotations

import numpy as np
import pytest

COUNT = 200


def half(right):
    from _arms import packed

    return {"accuracy": right / COUNT * 100, "correct": packed(np.arange(COUNT) < right), "count": COUNT}


def judged(even, odd):
    return {"even": half(even), "odd": half(odd)}


@pytest.fixture
def found():
    """Two ways, of which the second is best repaired on even images, and the first on odd ones."""
    from one_shot_repair import Way

    default, other = Way("l1", "global", "cut"), Way("taylor", "local", "kept")
    arm = {"macs": 0.7, "code": "x", "widths": {}}
    return {
        "whole": judged(180, 190),
        "found": {
            default: {**arm, "cut": 40.0, "recalibrated": 70.0, "repaired": 86.0},
            other: {**arm, "cut": 30.0, "recalibrated": 60.0, "repaired": 88.0},
        },
        "default": default,
        "best": other,
        "finals": {
            default: [{**arm, "repaired": judged(172, 189)}],
            other: [
                {**arm, "cut": judged(60, 50), "recalibrated": judged(120, 110), "repaired": judged(176, 185)},
                {**arm, "repaired": judged(176, 187)},
            ],
        },
        "peers": {
            ("l1", "conv"): {**arm, "recalibrated": judged(100, 150)},
            ("l1", "inner"): {**arm, "recalibrated": judged(120, 140)},
        },
        "seeds": [0, 1],
    }


def test_the_loss_on_odd_images_is_the_mean_over_seeds(found):
    from one_shot_repair import result

    made = result(**found, quick=False)
    assert made.value == pytest.approx(2.0)  # 190 right of 200, then 185 and 187
    assert made.met
    assert made.peer["value"] == 25.0  # the helped way is the better one on even images
    assert "l1 inner" in made.peer["name"]
    lost = made.detail["lost_odd"]
    assert lost["best, as cut"] == 70 and lost["best, batch norm recalibrated"] == 40
    assert lost["default (l1 global, sums cut), repaired"] == 0.5
    assert made.detail["lost_even"]["best, repaired"] == 2
    assert [row["repaired"] for row in made.detail["rows"]] == [88.0, 86.0]


def test_a_loss_above_the_goal_and_a_quick_run_meet_nothing(found):
    from one_shot_repair import result

    assert not result(**found, quick=True).met
    found["finals"][found["best"]][1]["repaired"] = judged(176, 184)
    assert not result(**found, quick=False).met


def test_kept_sums_are_protected_by_name_and_every_way_is_tried_once():
    from one_shot_repair import SCOPES, SCORES, SUMS, ways

    tried = ways(quick=False)
    assert len(set(tried)) == len(tried) == (len(SCOPES) + 1) * len(SCORES)
    for way in tried:
        step = way.step()
        assert (step.score, step.scope, step.macs) == (way.score, way.scope, 0.7)
        assert step.protect == (SUMS if way.sums == "kept" else ())
    assert set(ways(quick=True)) < set(tried)
