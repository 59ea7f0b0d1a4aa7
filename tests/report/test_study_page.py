"""The page of a study: each drawing by hand, nothing from outside, names stay text, 5,000 runs in 5 s and 3 MB."""

from __future__ import annotations

import json
import random
import re
import time
from datetime import datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.report import _study_charts as charts
from paretune.report import study_page
from paretune.report._axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from paretune.search import Float, Space, Trial
from paretune.search._look.story import story
from paretune.search._study.front import found_by
from paretune.search._study.goals import LOSS_ALONE

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
NUMBER = {
    "name": "x", "kind": "number", "marks": [[0.0, "0"], [0.5, "0.5"], [1.0, "1"]], "at": [0.25, 0.75],
    "prior": [1.0, 1.0], "posterior": [2.0, 0.5], "good": 5,
    "suggested": [[0, 0.1], [4, 0.9]],
}  # fmt: skip
CHOICE = NUMBER | {"name": "opt", "kind": "category", "marks": [[0.25, "a"], [0.75, "b"]], "posterior": None}


def trial(number, loss, budget=9):
    return {
        "number": number, "config_number": number, "config": {"x": 0.123456789, "opt": "a"}, "budget": budget,
        "loss": loss, "seconds": 1.5, "origin": "model", "values": {"size": 8.0}, "objectives": {"loss": loss},
        "missed": "",
    }  # fmt: skip


def study(**other):
    """Return what a small study tells."""
    line = {"run": 4, "value": 0.5, "rank": 0.0, "units": [0.25, 0.75], "values": [0.25, "b"]}
    return {
        "name": "digits", "method": "bohb", "budgets": [3, 9], "runs": 4, "finished": 3, "failed": 1, "lost": 0,
        "running": 0, "work": 6.0, "best": trial(3, 0.5), "front": [], "nearest": None, "points": [],
        "objectives": [["loss", "min"]], "constraints": [],
        "curves": [
            {"budget": 9, "points": [[3, 2.0, 4.0, 0.5], [4, 2.3, 6.0, 0.5]]},
            {"budget": 3, "points": [[1, 0.3, 1.0, 2.0], [2, 0.6, 2.0, 1.0], [4, 2.3, 6.0, 1.0]]},
        ],
        "rungs": [{"budget": 3, "runs": 2, "values": [1.0, 2.0]}, {"budget": 9, "runs": 1, "values": [0.5]}],
        "promotions": [{"config": 1, "points": [[0, 1.0], [1, 0.5]]}],
        "told_at": {"budget": 3, "runs": 2},
        "importances": {"x": 0.25, "opt": 0.75}, "parameters": [NUMBER, CHOICE],
        "coordinates": {"parameters": ["x", "opt"], "lines": [line]},
        "seconds": [{"run": 0, "budget": 3, "seconds": 1.0, "predicted": None}],
        "table": [trial(3, 0.5), trial(1, 1.0, 3)], "failures": [{"error": "ValueError: no", "runs": 1, "run": 2}],
        "notes": ["something"],
    } | other  # fmt: skip


def parsed(drawing):
    return ElementTree.fromstring(drawing)


def paths(svg, look):
    return [each for each in svg.iter() if each.get("class") == look]


def test_the_best_so_far_goes_down_in_steps():
    svg = parsed(charts.best_so_far(study()["curves"], 0, "runs", str))
    first, second = [group for group in svg.iter(f"{SVG}g") if (group.get("class") or "").startswith("curve c")][
        :2
    ]
    x = lambda runs: LEFT + runs / 4 * (WIDTH - RIGHT - LEFT)  # noqa: E731
    start, rest = re.fullmatch(r"M([\d.]+) [\d.]+(.*)", second.find(f"{SVG}path").get("d")).groups()
    assert float(start) == pytest.approx(x(1), abs=0.1)
    steps = [(float(px), float(py)) for px, py in re.findall(r"H([\d.]+)V([\d.]+)", rest)]
    assert [px for px, _ in steps] == pytest.approx([x(2), x(4)], abs=0.1) and steps[0][1] == steps[1][1]
    tips = [circle.get("data-tip") for circle in second.iter(f"{SVG}circle")]
    assert tips[1].split() == ["3:", "1", "after", "2", "runs,", "2.0", "s"]
    assert len(list(first.iter(f"{SVG}circle"))) == 2


def test_losses_far_apart_have_a_logarithmic_axis():
    curve = {"budget": None, "points": [[1, 1.0, 1.0, 100.0], [2, 2.0, 2.0, 0.1]]}
    assert "best loss so far, logarithmic" in charts.best_so_far([curve], 0, "runs", str)
    assert "logarithmic" not in charts.best_so_far([curve | {"points": [[1, 1.0, 1.0, -1.0]]}], 0, "runs", str)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_any_losses_are_drawn_inside_the_frame(losses):
    rung = {"budget": 1, "runs": len(losses), "values": sorted(losses)}
    curve = {"budget": 1, "points": [[i, float(i), 1.0, loss] for i, loss in enumerate(losses)]}
    for drawing in (charts.rungs([rung], []), charts.best_so_far([curve], 0, "runs", str)):
        places = re.findall(r"(?:M|V| )([\d.einfa-]+)h0|V([\d.einfa-]+)", drawing)
        assert all(TOP <= float(first or second) <= HEIGHT - BOTTOM for first, second in places)


def test_promotions_join_the_losses_of_a_configuration():
    found = study()
    svg = parsed(charts.rungs(found["rungs"], found["promotions"]))
    (line,) = svg.iter(f"{SVG}polyline")
    (first, second) = [tuple(map(float, at.split(","))) for at in line.get("points").split()]
    dots = [re.findall(r"M([\d.]+) ([\d.]+)h0", each.get("d")) for each in paths(svg, "dots")]
    dots = [[(float(px), float(py)) for px, py in each] for each in dots]
    assert [len(each) for each in dots] == [2, 1] and first == dots[0][0] and second == dots[1][0]
    assert second[1] > first[1], "less loss is further down"


def test_a_gap_stands_for_what_is_not_active():
    line = {"run": 1, "value": 1.0, "rank": 0.6, "units": [0.0, None, 1.0], "values": [1, None, 3]}
    marks = [NUMBER | {"name": name} for name in "abc"]
    svg = parsed(charts.across({"parameters": list("abc"), "lines": [line]}, marks))
    (drawn,) = paths(svg, "q3")
    places = re.findall(r"([ML])([\d.]+) ([\d.]+)", drawn.get("d"))
    assert [kind for kind, _, _ in places] == ["M", "M"]
    assert [float(y) for _, _, y in places] == [HEIGHT - BOTTOM, TOP]
    assert drawn.get("data-tip").split() == ["run", "1:", "1", "a:", "1", "c:", "3"]


@pytest.mark.parametrize(("rank", "look"), [(0.0, "q0"), (0.049, "q0"), (0.05, "q1"), (0.2, "q2"), (0.5, "q3")])
def test_looks_follow_ranks(rank, look):
    line = {"run": 1, "value": 1.0, "rank": rank, "units": [0.5], "values": [1]}
    assert f'class="{look}"' in charts.across({"parameters": ["a"], "lines": [line]}, [NUMBER])


def test_beliefs_and_what_was_suggested():
    svg = parsed(charts.belief(NUMBER))
    heights = {
        group.get("aria-label"): [
            float(at.split(",")[1]) for at in group.find(f"{SVG}polyline").get("points").split()
        ]
        for group in svg.iter(f"{SVG}g")
        if group.find(f"{SVG}polyline") is not None
    }
    at = lambda density: HEIGHT - BOTTOM - density / 2.2 * (HEIGHT - BOTTOM - TOP)  # noqa: E731
    assert heights["prior"] == pytest.approx([at(1), at(1)], abs=0.1)
    assert heights["good runs"] == pytest.approx([at(2), at(0.5)], abs=0.1)
    assert charts.belief(NUMBER | {"kind": "ordered"}) == charts.belief(NUMBER), "neighbours are alike: a curve"
    bars = parsed(charts.belief(CHOICE))
    (prior,) = [group for group in bars.iter(f"{SVG}g") if group.get("aria-label")]
    assert prior.get("aria-label") == "prior" and len(prior) == 2, "a bar for each category, and no good runs"
    (dots,) = paths(parsed(charts.suggested(NUMBER)), "dots")
    (a, b) = [tuple(map(float, at)) for at in re.findall(r"M([\d.]+) ([\d.]+)h0", dots.get("d"))]
    assert a == (LEFT, pytest.approx(HEIGHT - BOTTOM - 0.1 * (HEIGHT - BOTTOM - TOP), abs=0.1))
    assert b == (WIDTH - RIGHT, pytest.approx(TOP + 0.1 * (HEIGHT - BOTTOM - TOP), abs=0.1))


def test_times_are_against_what_was_expected_where_it_is_known():
    rows = [{"run": i, "budget": 3, "seconds": 1.0 + i, "predicted": 1.0 + i} for i in range(3)]
    assert "expected seconds" in charts.times(rows) and "front-line" in charts.times(rows)
    assert ">budget<" in charts.times([row | {"predicted": None} for row in rows])
    assert "nothing to draw" in charts.times([rows[0] | {"predicted": None, "budget": None}])


def trade(**other):
    """Return what a study of two objectives and a constraint tells."""
    goals = {"objectives": {"error": 0.1, "size": 5.0}, "missed": ""}
    front = [trial(3, 0.1) | goals, trial(1, 0.2) | {"objectives": {"error": 0.2, "size": 2.0}, "missed": ""}]
    points = [
        {"run": run, "values": values} for run, values in ((2, [0.3, 4.0]), (3, [0.1, 5.0]), (1, [0.2, 2.0]))
    ]
    missing = trial(0, 0.05) | {"objectives": {"error": 0.05, "size": 90.0}, "missed": "size 90 misses <= 9 by 81"}
    return study(
        objectives=[["error", "min"], ["size", "min"]], constraints=["size <= 9"], best=front[0], front=front,
        points=points, table=[*front, missing], **other,
    )  # fmt: skip


def test_the_front_is_drawn_and_listed():
    found = trade()
    drawing = parsed(charts.objectives(found["points"], [3, 1], found["objectives"]))
    tips = [each.get("data-tip") for each in drawing.iter() if each.get("data-tip")]
    words = sorted(" ".join(tip.split()) for tip in tips)
    assert words == ["run 1 error: 0.2 size: 2", "run 2 error: 0.3 size: 4", "run 3 error: 0.1 size: 5"], (
        "those that hold"
    )
    assert "lower and further left is better" in charts.objectives(found["points"], [3], found["objectives"])
    large = [["error", "min"], ["size", "max"]]
    assert "lower and further right is better" in charts.objectives(found["points"], [3], large)
    page = study_page(found)
    assert "2 on the front of error, size on budget 9, in 4 runs" in page
    assert "Runs on budget 9 that hold size &lt;= 9" in page and "size 90 misses &lt;= 9 by 81" in page
    assert "Least error on each budget, of runs that hold the constraints" in page


def test_what_came_nearest_is_said_where_nothing_holds_the_constraints():
    found = trade()
    page = study_page(found | {"best": None, "front": [], "nearest": found["table"][2], "curves": []})
    assert "4 runs, none of which holds the constraints" in page and "What came nearest" in page
    assert "In this one size 90 misses &lt;= 9 by 81" in page


def test_the_most_is_the_best_where_it_is_to_be_large():
    for least, far, edge in ((True, 1000, TOP), (False, -1000, HEIGHT - BOTTOM)):
        rung = {"budget": 1, "runs": 20, "values": [*range(18), far, 2 * far]}
        drawing = charts.rungs([rung], [], "accuracy", least=least)
        heights = [float(height) for height in re.findall(r" ([\d.]+)h0", drawing)]
        assert heights.count(edge) == 2, "the worst tenth stands on the edge"
    best = {"accuracy": 0.9}
    page = study_page(study(objectives=[["accuracy", "max"]], best=trial(3, -0.9) | {"objectives": best}))
    assert "Most accuracy 0.9 on budget 9, in 4 runs" in page


def test_the_page_says_what_was_found_and_holds_together():
    page = study_page(study())
    assert "Least loss 0.5 on budget 9, in 4 runs" in page and "<code>0.123456789</code>" in page
    assert "ValueError: no" in page and "1 run, first 2" in page and "something" in page
    assert page.count("<svg xmlns") == 2 + 2 + 1 + 2 * 2
    assert not re.search(r"(?:src|href|action)=\"(?!data:,)", page) and "default-src 'none'" in page
    assert page.index(">opt</th><td>75 %") < page.index(">x</th><td>25 %")
    named, used = set(re.findall(r' id="(\w+)"', page)), set(re.findall(r'aria-labelledby="(\w+)"', page))
    assert used <= named
    for drawing in re.findall(r"<svg xmlns.*?</svg>", page, re.DOTALL):
        parsed(drawing)


def test_a_study_without_anything_has_a_page_too():
    nothing = {"parameters": [], "lines": []}
    page = study_page(
        study(best=None, curves=[], rungs=[], promotions=[], parameters=[], coordinates=nothing, seconds=[],
              table=[], failures=[], notes=[], importances={}, told_at={"budget": None, "runs": 0})
    )  # fmt: skip
    assert "4 runs, none of which succeeded" in page and "nothing to draw" in page


def poisoned(value):
    if isinstance(value, dict):
        return {key: item if key == "kind" else poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_names_from_the_user_stay_text():
    page = study_page(poisoned(study(importances={HOSTILE: 1.0})))
    assert page.count("<script") == 1 and "<img" not in page and page.count("alert(1)") > 20


def test_five_thousand_runs_are_one_small_page_in_seconds():
    space = Space({f"p{index}": Float(0, 1) for index in range(12)})
    generator = random.Random(0)
    trials = []
    for number in range(5000):
        rung = 2 if number % 9 == 0 else 1 if number % 3 == 0 else 0
        config = {name: generator.random() for name in space.names}
        trials.append(
            Trial(
                number=number, config_number=number, config=config, budget=3**rung, rung=rung, bracket=0,
                origin="model", seen=number, attempt=1, loss=generator.random(), seconds=generator.random(),
                values={}, error="", finished=datetime(2026, 1, 1) + timedelta(seconds=number),
            )
        )  # fmt: skip
    began = time.process_time()
    told = story(space, trials, (1, 3, 9), name="big", method="bohb", found=found_by(trials, LOSS_ALONE, 1, 2))
    page = study_page(told)
    assert time.process_time() - began < 5.0
    assert 100_000 < len(page.encode()) < 3_000_000
    assert "Of 5,000 finished runs at most 600 are drawn" in page
    assert len(json.dumps(told, allow_nan=False)) < 3_000_000
