from __future__ import annotations

import math
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.report._axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from paretune.report._charts import Line, Point, lines, scatter

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(-1e9, 1e9)


def draw(points: list[Point], **options) -> ElementTree.Element:
    settings = {"x_label": "x", "y_label": "y", "x_format": str, "y_format": str, "title": "t"} | options
    return ElementTree.fromstring(scatter(points, **settings))


def curves(*given_lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(lines(given_lines, x_label="epoch", y_label="loss", y_format=str, title="t"))


def marks(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [g for g in svg.iter(f"{SVG}g") if (g.get("class") or "").startswith("point")]


def centre(mark: ElementTree.Element) -> tuple[float, float]:
    dot = next(e for e in mark if e.get("class") == "dot")
    return float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9))
def test_every_point_is_drawn_inside_the_frame_in_the_order_of_its_values(
    places: list[tuple[float, float]],
) -> None:
    found = [centre(mark) for mark in marks(draw([Point(f"p{i}", x, y) for i, (x, y) in enumerate(places)]))]
    assert len(found) == len(places)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in found)
    for (a, at_a), (b, at_b) in combinations(zip(places, found, strict=True), 2):
        assert (at_a[0] <= at_b[0]) or a[0] >= b[0]
        assert (at_a[1] >= at_b[1]) or a[1] >= b[1]  # higher values are higher up: smaller y


def test_a_point_carries_its_numbers_role_and_intervals() -> None:
    point = Point("a", 0.5, 0.9, (0.4, 0.6), (0.8, 0.95), role="best", tip="a\n90 %")
    (mark,) = marks(draw([point, Point("b", float("nan"), 1.0)]))
    assert mark.get("class") == "point best"
    assert "90 %" in mark.get("data-tip") and mark.get("aria-label") == mark.get("data-tip")
    assert mark.find(f"{SVG}title").text == "a\n90 %"
    across, up = (e.get("d") for e in mark.findall(f"{SVG}path[@class='interval']"))
    x, y = centre(mark)
    low, high = map(float, re.fullmatch(rf"M([\d.]+) {y:.1f}H([\d.]+)", across).groups())
    assert low < x < high and high - x == pytest.approx(x - low, abs=0.2)
    low, high = map(float, re.fullmatch(rf"M{x:.1f} ([\d.]+)V([\d.]+)", up).groups())
    assert low > y > high and low - y == pytest.approx(2 * (y - high), abs=0.3)  # 0.1 below, 0.05 above


def test_a_narrow_axis_starts_at_zero_and_a_wide_one_is_logarithmic_and_says_so() -> None:
    narrow = draw([Point("a", 0.5, 1.0), Point("b", 1.0, 2.0)])
    (first, _), (second, _) = map(centre, marks(narrow))
    assert first - LEFT == pytest.approx((second - LEFT) / 2, abs=0.2)
    wide = draw([Point("a", 1.0, 1.0), Point("b", 10.0, 2.0), Point("c", 100.0, 3.0)])
    at = [centre(mark)[0] for mark in marks(wide)]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.2)
    assert any("logarithmic" in (text.text or "") for text in wide.iter(f"{SVG}text"))
    assert not any("logarithmic" in (text.text or "") for text in narrow.iter(f"{SVG}text"))


def test_a_point_far_from_the_focus_stands_on_the_edge_with_its_value() -> None:
    points = [Point("a", 1.0, 98.0, y_interval=(97.0, 99.0)), Point("b", 0.5, 92.0), Point("c", 0.5, 58.0)]
    svg = draw(points, focus=[0], y_format=lambda value: f"{value:g} %")
    names = [text.text for text in svg.iter(f"{SVG}text") if text.get("class") == "name"]
    assert names == ["a", "b", "c 58 %"]  # 92 is 5 below a span of 2, so near; 58 is not
    near, far = marks(svg)[1:]
    assert TOP < centre(near)[1] < HEIGHT - BOTTOM
    triangle = next(e.get("d") for e in far if e.get("class") == "dot")
    assert f" {HEIGHT - BOTTOM:.1f}L" in triangle  # its tip is on the lower edge
    assert not [e for e in far if e.get("class") == "interval"]


def test_the_front_is_a_staircase_level_until_the_next_point() -> None:
    svg = draw([Point("a", 0.2, 1.0), Point("b", 1.0, 2.0)], line=[0, 1])
    (ax, ay), (bx, by) = map(centre, marks(svg))
    path = svg.find(f"{SVG}path[@class='front-line']").get("d")
    assert path == f"M{ax:.1f} {ay:.1f}H{bx:.1f}V{by:.1f}H{WIDTH - RIGHT}"


def test_a_curve_leaves_out_what_is_not_finite_and_marks_the_best() -> None:
    svg = curves(Line("loss", [(1, 3.0), (2, math.nan), (3, None), (4, 1.0)], ["a", "b", "c", "d"], mark=3))
    (polyline,) = svg.iter(f"{SVG}polyline")
    assert len(polyline.get("points").split()) == 2
    samples = [e for e in svg.iter(f"{SVG}circle") if e.get("class") == "sample"]
    assert [e.get("data-tip") for e in samples] == ["a", "d"]
    (mark,) = (e for e in svg.iter(f"{SVG}circle") if e.get("class") == "mark")
    assert mark.get("cx") == samples[1].get("cx")


def test_several_curves_get_a_legend_and_one_gets_none() -> None:
    both = curves(Line("loss", [(1, 3.0), (2, 1.0)]), Line("soft_labels", [(1, 2.0), (2, 0.5)]))
    assert "soft_labels" in [text.text for text in both.iter(f"{SVG}text")]
    one = curves(Line("soft_labels", [(1, 2.0), (2, 0.5)]))
    assert "soft_labels" not in [text.text for text in one.iter(f"{SVG}text")]


def test_a_single_epoch_and_no_epoch_at_all_are_drawn() -> None:
    assert len(list(curves(Line("loss", [(1, 3.0)])).iter(f"{SVG}polyline"))) == 1
    assert "nothing to draw" in curves(Line("loss", [])).get("aria-label")
    assert "nothing to draw" in draw([]).get("aria-label")


@given(st.text(max_size=40))
def test_any_text_stays_text(name: str) -> None:
    svg = draw([Point(name, 1.0, 1.0, tip=name)], y_label=name, title=name)
    (mark,) = marks(svg)
    assert not list(svg.iter(f"{SVG}script"))
    kept = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", name)
    assert mark.find(f"{SVG}title").text in (None, kept.replace("\r\n", "\n").replace("\r", "\n"))
