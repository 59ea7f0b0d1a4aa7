"""Data -> an SVG drawing as a string. No library, no outside font, no colour: classes that the page styles.

Each mark that carries numbers has them in `data-tip` (the page shows it on hover and focus), in `aria-label`
and, for a page without its script, in `<title>`. Axes start at zero only where the caller says so; a
logarithmic axis says that it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paretune.report._axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis
from paretune.report._format import is_number
from paretune.report._frame import Format, caption, empty, grid, padded, svg, xml
from paretune.report._labels import CHARACTER, Box, place_labels, shorten

FAR = 3.0
"""Spans of the points in focus beyond which another point is drawn on the edge."""


@dataclass(frozen=True)
class Point:
    """One candidate in a scatter plot."""

    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    role: str = "other"
    """`baseline`, `best`, `front` or `other`: its class, and so its look."""
    tip: str = ""
    """What hovering shows; lines end with a line feed."""


@dataclass(frozen=True)
class Line:
    """One curve: points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    tips: Sequence[str] = ()
    """What hovering over each point shows."""
    mark: int | None = None
    """The index of a point to mark (the best epoch)."""


@dataclass(frozen=True)
class Node:
    """One node of a tree."""

    x: float
    y: float
    parent: int | None
    """Index of the node that it hangs on."""
    tip: str


def scatter(
    points: Sequence[Point],
    *,
    line: Sequence[int] = (),
    focus: Sequence[int] = (),
    better_up: bool = True,
    better_left: bool = True,
    x_label: str,
    y_label: str,
    x_format: Format,
    y_format: Format,
    title: str,
) -> str:
    """Draw points with their intervals and a staircase through the points of `line` (a Pareto front by x).

    The x axis starts at 0, or is logarithmic where the values span more than a factor of 10. The y axis shows
    the points of `focus` (all by default) and whatever lies near them; a point far away stands as a triangle on
    the edge, its value in its label, so that one collapsed candidate does not flatten all others.
    """
    stairs, centre = [points[i] for i in line], [points[i] for i in focus] or points
    points = [p for p in points if is_number(p.x) and is_number(p.y)]
    if not points:
        return empty(title)
    x = _x_axis([p.x for p in points] + _ends(p.x_interval for p in points))
    y = _y_axis(points, centre)
    label = f"{x_label}, logarithmic" if x.log else x_label
    parts = [grid(x, y, label, y_label, x_format, y_format)]
    if len(stairs) > 1:
        parts.append(_staircase([(x(p.x), y(p.y)) for p in stairs]))
    labels = place_labels(
        [(x(p.x), y(p.y)) for p in points],
        [_label(p, y, y_format) if _named(p, len(points)) else "" for p in points],
        avoid=_thin_boxes(points, stairs, x, y),
    )
    for point, label_at in zip(points, labels, strict=True):
        parts.append(_mark(point, x, y, label_at))
    up, left = "higher" if better_up else "lower", "left" if better_left else "right"
    summary = f"{title}: {len(points)} candidates, {up} and further {left} is better"
    return svg(summary, parts)


def lines(curves: Sequence[Line], *, x_label: str, y_label: str, y_format: Format, title: str) -> str:
    """Draw curves over a shared x of whole numbers (epochs); points that are not finite are left out."""
    clean = [curve for curve in map(_finite, curves) if curve.points]
    if not clean:
        return empty(title)
    xs = [x for curve in clean for x, _ in curve.points]
    ys = [y for curve in clean for _, y in curve.points]
    low, high = min(xs), max(xs)
    x = Axis(low, high, LEFT, WIDTH - RIGHT) if high > low else Axis(low - 1, low + 1, LEFT, WIDTH - RIGHT)
    y = padded(ys, HEIGHT - BOTTOM, TOP)
    parts = [grid(x, y, x_label, y_label, lambda value: f"{value:g}", y_format, whole=True)]
    parts += [_curve(curve, index, x, y) for index, curve in enumerate(clean)]
    if len(clean) > 1:
        parts.append(legend([curve.name for curve in clean]))
    return svg(f"{title}: {', '.join(curve.name for curve in clean)}", parts)


def tree(nodes: Sequence[Node], *, x_label: str, y_label: str, y_format: Format, title: str) -> str:
    """Draw nodes joined to what they hang on, over an x of whole numbers."""
    if not nodes:
        return empty(title)
    x = Axis(0, max(node.x for node in nodes) + 1, LEFT, WIDTH - RIGHT)
    y = padded([node.y for node in nodes], HEIGHT - BOTTOM, TOP)
    parts = [grid(x, y, x_label, y_label, lambda value: f"{value:g}", y_format, whole=True)]
    marks = []
    for node in nodes:
        if node.parent is not None:
            above = nodes[node.parent]
            parts.append(
                f'<g class="curve c0" aria-hidden="true"><polyline points="{x(above.x):.1f},{y(above.y):.1f} '
                f'{x(node.x):.1f},{y(node.y):.1f}"/></g>'
            )
        role, tip = "front" if node.parent is None else "other", xml(node.tip)
        marks.append(
            f'<g class="point {role}" role="img" aria-label="{tip}" data-tip="{tip}"><title>{tip}</title>'
            f'<circle class="dot" cx="{x(node.x):.1f}" cy="{y(node.y):.1f}" r="4"/></g>'
        )
    return svg(f"{title}: {len(nodes)} nodes", [*parts, *marks])


def _thin_boxes(points: Sequence[Point], stairs: Sequence[Point], x: Axis, y: Axis) -> list[Box]:
    """Return boxes around the intervals and the steps of the front's line, which labels had better not cross."""
    boxes = []
    for p in points:
        if p.x_interval and all(map(is_number, p.x_interval)):
            boxes.append((x(p.x_interval[0]), y(p.y) - 1, x(p.x_interval[1]), y(p.y) + 1))
        if p.y_interval and all(map(is_number, p.y_interval)):
            boxes.append((x(p.x) - 1, y(p.y_interval[1]), x(p.x) + 1, y(p.y_interval[0])))
    for p, q in pairwise(stairs):
        boxes.append((x(p.x), y(p.y) - 1, x(q.x), y(p.y) + 1))
    if stairs:
        boxes.append((x(stairs[-1].x), y(stairs[-1].y) - 1, float(WIDTH), y(stairs[-1].y) + 1))
    return boxes


def _x_axis(values: Sequence[float]) -> Axis:
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) > 10:
        return Axis(min(positive) / 1.5, max(positive) * 1.6, LEFT, WIDTH - RIGHT, log=True)
    low, high = min(0.0, *values), max(values)
    return Axis(low, high + (high - low or 1.0) * 0.14, LEFT, WIDTH - RIGHT)


def _ends(intervals: object) -> list[float]:
    return [end for pair in intervals if pair is not None for end in pair if is_number(end)]  # type: ignore[attr-defined]


def _finite(curve: Line) -> Line:
    """Return the curve without the points that cannot be drawn."""
    tips = list(curve.tips) if len(curve.tips) == len(curve.points) else [""] * len(curve.points)
    kept = [i for i, (x, y) in enumerate(curve.points) if is_number(x) and is_number(y)]
    mark = kept.index(curve.mark) if curve.mark in kept else None
    return Line(curve.name, [curve.points[i] for i in kept], [tips[i] for i in kept], mark)


def _staircase(at: Sequence[tuple[float, float]]) -> str:
    """Draw what is reached at each cost: level until the next point of the front, then up to it."""
    path = f"M{at[0][0]:.1f} {at[0][1]:.1f}"
    for x, y in at[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return f'<path class="front-line" d="{path}H{WIDTH - RIGHT}"/>'


def _y_axis(points: Sequence[Point], centre: Sequence[Point]) -> Axis:
    """Return an axis over the points of the centre with their intervals, and over others up to FAR spans away."""

    def values(some: Sequence[Point]) -> list[float]:
        return [p.y for p in some if is_number(p.y)] + _ends(p.y_interval for p in some)

    low, high = min(values(centre)), max(values(centre))
    reach = FAR * (high - low)
    near = [p for p in points if low - reach <= p.y <= high + reach]
    return padded(values([*centre, *near]), HEIGHT - BOTTOM, TOP)


def _outside(point: Point, y: Axis) -> bool:
    return not y.low <= point.y <= y.high


def _label(point: Point, y: Axis, y_format: Format) -> str:
    """Return the name; with the value where the point's place does not tell it."""
    return f"{shorten(point.name)} {y_format(point.y)}" if _outside(point, y) else shorten(point.name)


def _named(point: Point, count: int) -> bool:
    return point.role != "other" or count <= 8


def _mark(point: Point, x: Axis, y: Axis, label: tuple[float, float, str, str] | None) -> str:
    at_x, at_y = x(point.x), y(point.y)
    parts = []
    if point.x_interval and all(map(is_number, point.x_interval)):
        low, high = (x(end) for end in point.x_interval)
        parts.append(f'<path class="interval" d="M{low:.1f} {at_y:.1f}H{high:.1f}"/>')
    if point.y_interval and all(map(is_number, point.y_interval)) and not _outside(point, y):
        low, high = (y(end) for end in point.y_interval)
        parts.append(f'<path class="interval" d="M{at_x:.1f} {low:.1f}V{high:.1f}"/>')
    if point.role == "best":
        parts.append(f'<circle class="ring" cx="{at_x:.1f}" cy="{at_y:.1f}" r="10"/>')
    if _outside(point, y):
        tip_of, base = (at_y, at_y - 10) if point.y < y.low else (at_y, at_y + 10)
        parts.append(f'<path class="dot" d="M{at_x:.1f} {tip_of:.1f}L{at_x - 6:.1f} {base:.1f}h12z"/>')
    elif point.role == "baseline":
        corners = f"M{at_x:.1f} {at_y - 8:.1f}l8 8l-8 8l-8-8z"
        parts.append(f'<path class="dot" d="{corners}"/>')
    else:
        parts.append(f'<circle class="dot" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5.5"/>')
    if label:
        parts.append(caption("name", label[0], label[1], label[3], label[2]))
    tip = xml(point.tip or point.name)
    return (
        f'<g class="point {xml(point.role)}" tabindex="0" role="img" aria-label="{tip}" data-tip="{tip}" '
        f'data-candidate="{xml(point.name)}"><title>{tip}</title>{"".join(parts)}</g>'
    )


def _curve(curve: Line, index: int, x: Axis, y: Axis) -> str:
    at = [(f"{x(px):.1f}", f"{y(py):.1f}") for px, py in curve.points]
    parts = [f'<polyline points="{" ".join(map(",".join, at))}"/>']
    if curve.mark is not None:
        cx, cy = at[curve.mark]
        parts.append(f'<circle class="mark" cx="{cx}" cy="{cy}" r="4"/>')
    for (cx, cy), (_, py), tip in zip(at, curve.points, curve.tips, strict=True):
        text = xml(tip or f"{curve.name} {py:.4g}")
        circle = f'<circle class="sample" cx="{cx}" cy="{cy}" r="5" data-tip="{text}">'
        parts.append(f"{circle}<title>{text}</title></circle>")
    return f'<g class="curve c{index % 6}" role="img" aria-label="{xml(curve.name)}">{"".join(parts)}</g>'


def legend(names: Sequence[str]) -> str:
    """Return the names of up to six curves, in their looks, at the upper right."""
    parts, right = [], float(WIDTH - RIGHT)
    for index, name in reversed(list(enumerate(names[:6]))):
        text = shorten(name, 20)
        left = right - CHARACTER * len(text)
        parts.append(
            f'<g class="curve c{index % 6}"><path d="M{left - 20:.1f} {TOP - 20}h14"/>'
            f'<text class="label" x="{left:.1f}" y="{TOP - 16}">{xml(text)}</text></g>'
        )
        right = left - 32
    return f'<g aria-hidden="true">{"".join(parts)}</g>'
