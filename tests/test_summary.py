"""Which candidate is chosen, by hand."""

from typing import Any

import pytest

from paretune.errors import RecipeError
from paretune.recipe import Constraints
from paretune.summary import choose, front, seconds, shortfall, violations


def row(name: str, value: float, ratio: float, size: int, **more: Any) -> dict[str, Any]:
    verdict = None if name == "baseline" else more.pop("speed", "faster" if ratio < 0.98 else "same")
    decision = {"verdict": more.pop("verdict", "within"), "drop": 100 * (0.9 - value), "unit": "points"}
    return {
        "name": name,
        "metric": {"value": value, "greater_is_better": True},
        "latency": {"ratio": ratio, "median_ms": 10 * ratio, "verdict": verdict},
        "bytes": size,
        **({} if name == "baseline" else {"decision": decision}),
        **more,
    }


BASE = row("baseline", 0.9, 1.0, 1000)
SLOW = row("slow", 0.9, 1.2, 250, speed="slower")
FAST = row("fast", 0.89, 0.4, 200)
BROKEN = row("broken", 0.5, 0.1, 50, verdict="not within")


def test_the_fastest_that_holds_is_chosen():
    assert choose([BASE, SLOW, FAST, BROKEN], Constraints(max_drop=2)) == "fast"


def test_no_win_is_not_chosen():
    assert choose([BASE, row("same", 0.9, 1.0, 1000)], Constraints(max_drop=1)) is None


def test_smaller_but_not_faster_is_a_win_where_no_speed_is_asked():
    assert choose([BASE, SLOW], Constraints(max_drop=1)) == "slow"
    assert choose([BASE, SLOW], Constraints(max_drop=1, max_latency="0.9x")) is None


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        (Constraints(max_latency="0.3x"), "latency 0.4x, at most 0.3x"),
        (Constraints(max_latency="3ms"), "latency 4 ms, at most 3 ms"),
        (Constraints(max_size="0.1x"), "size 0.2x, at most 0.1x"),
        (Constraints(max_size="0.1KB"), "size 200 bytes, at most 100 bytes"),
        (Constraints(max_drop=0.5), "1.00 points lost, at most 0.5 (within)"),
    ],
)
def test_each_constraint_says_what_is_missing(constraints: Constraints, text: str):
    assert violations(FAST, BASE, constraints) == [text]


def test_flips_and_the_worst_class_are_constraints():
    flipped = row("a", 0.9, 0.5, 10, behaviour={"flips": 2.0, "worst_class": {"drop": 5.0}})
    assert violations(flipped, BASE, Constraints(max_flips=1, max_class_drop=4)) == [
        "flips 2.00%, at most 1%",
        "worst class lost 5.00 points, at most 4 points",
    ]


def test_a_bound_on_flips_is_not_held_by_what_is_no_classification():
    regression = row("a", 0.9, 0.5, 10, behaviour={"flips": None, "worst_class": None, "calibration_error": None})
    assert violations(regression, BASE, Constraints(max_flips=1, max_class_drop=4)) == [
        "flips unknown, as this is no classification, at most 1%",
        "worst class lost unknown, as this is no classification, at most 4 points",
    ]
    assert violations(regression, BASE, Constraints()) == violations(BASE, BASE, Constraints(max_flips=1)) == []


def test_cannot_tell_holds_where_the_drop_seen_is_within_and_noise_holds_no_latency():
    unsure = row("a", 0.895, 0.5, 10, verdict="cannot tell")
    assert violations(unsure, BASE, Constraints(max_drop=1)) == []
    noisy = row("a", 0.9, 0.3, 10, speed="too noisy")
    assert "too noisy" in violations(noisy, BASE, Constraints(max_latency="0.5x"))[0]
    noisy["latency"]["ratio_high"] = 0.45
    assert violations(noisy, BASE, Constraints(max_latency="0.5x")) == []
    assert "too noisy" in violations(noisy, BASE, Constraints(max_latency="0.4x"))[0]
    assert "too noisy" in violations(noisy, BASE, Constraints(max_latency="9ms"))[0]


def test_the_front_leaves_out_what_another_beats_in_everything():
    worse = row("worse", 0.88, 0.5, 300)
    assert [r["name"] for r in front([BASE, FAST, worse, BROKEN])] == ["baseline", "fast", "broken"]


def test_noise_does_not_choose_between_models_of_one_speed_and_size():
    cut, trained = row("cut", 0.89, 0.500, 1000), row("trained", 0.9, 0.501, 1002)
    for each in (cut, trained):
        each["latency"] |= {"ratio_low": 0.49, "ratio_high": 0.51}
    small = row("small", 0.88, 0.505, 400)
    small["latency"] |= {"ratio_low": 0.495, "ratio_high": 0.515}
    base = BASE | {"bytes": 4000}
    assert choose([base, cut, trained], Constraints(max_drop=5)) == "trained"
    assert choose([base, cut, trained, small], Constraints(max_drop=5)) == "small"
    small["latency"] |= {"ratio": 0.52, "ratio_low": 0.515}
    assert choose([base, cut, trained, small], Constraints(max_drop=5)) == "trained"


def test_the_shortfall_names_the_closest():
    text = shortfall([BASE, FAST, BROKEN], Constraints(max_drop=0.1, max_latency="0.5x"))
    assert "'broken'" in text or "'fast'" in text
    assert "lost" in text


@pytest.mark.parametrize("verdict", ["not within", "cannot tell"])
def test_the_shortfall_of_a_choice_that_the_test_data_refuted_says_so(verdict: str):
    refuted = FAST | {"test": {"decision": {"verdict": verdict, "drop": 3.0, "unit": "points"}}}
    quicker = row("quicker", 0.7, 0.1, 10)
    text = shortfall([BASE, quicker, refuted], Constraints(max_drop=2))
    assert text.endswith(
        f"'fast': held on validation data, but not on test data: 3.00 points lost, at most 2 ({verdict})"
    )
    assert shortfall([BASE, row("same", 0.9, 1.0, 1000)], Constraints()).endswith("smaller than the baseline")


def test_the_shortfall_names_every_bound_that_the_test_data_broke():
    seen = {"behaviour": {"flips": 3.0, "worst_class": None, "calibration_error": None}}
    flipped = FAST | {"behaviour": {"flips": 0.5, "worst_class": None}, "test": seen}
    text = shortfall([BASE, flipped], Constraints(max_flips=1))
    assert text.endswith("held on validation data, but not on test data: flips 3.00%, at most 1%")


@pytest.mark.parametrize(("text", "value"), [("20min", 1200), ("90s", 90), ("1.5h", 5400), (30, 30), ("2 m", 120)])
def test_lengths_of_time(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0s", "5 days"])
def test_what_is_no_length_of_time_is_refused(text: str):
    with pytest.raises(RecipeError, match="no length of time"):
        seconds(text)
