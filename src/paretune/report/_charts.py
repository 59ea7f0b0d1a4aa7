"""Data -> an SVG drawing as a string. No library, no outside font, no colour: classes that the page styles.

Each mark that carries numbers has them in `data-tip` (the page shows it on hover and focus), in `aria-label`
and, for a page without its script, in `<title>`. Axes start at zero only where the caller says so; a
logarithmic axis says that it is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from paretune.report._format import is_number

Format = Callable[[float], str]

WIDTH, HEIGHT = 540, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 34, 46
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Place = tuple[float, float, str]
"""x, y, and the end of the text that stands there."""
OFFSETS = (
    (11.0, 4.0, "start"), (-11.0, 4.0, "end"), (0.0, -12.0, "middle"), (0.0, 20.0, "middle"),
    (9.0, -9.0, "start"), (9.0, 17.0, "start"), (-9.0, -9.0, "end"), (-9.0, 17.0, "end"),
)  # fmt: skip
"""Where a label may stand beside its mark, the best place first."""
CHARACTER = 7.0
"""Width of a character of a 12 px label, on the wide side, to keep labels apart."""


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
class Axis:
    """A range of numbers laid out over a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; a value outside the range lands on its end."""
        low, high, at = (math.log(max(v, 1e-300)) if self.log else v for v in (self.low, self.high, value))
        share = min(max((at - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)


def scatter(
    points: Sequence[Point],
    *,
    line: Sequence[int] = (),
    better_up: bool = True,
    x_label: str,
    y_label: str,
    x_format: Format,
    y_format: Format,
    title: str,
) -> str:
    """Draw points with their intervals and a staircase through the points of `line` (a Pareto front by x).

    The x axis starts at 0, or is logarithmic where the values span more than a factor of 10.
    """
    stairs = [points[i] for i in line]
    points = [p for p in points if is_number(p.x) and is_number(p.y)]
    if not points:
        return _empty(title)
    x = _x_axis([p.x for p in points] + _ends(p.x_interval for p in points))
    y = _padded([p.y for p in points] + _ends(p.y_interval for p in points), HEIGHT - BOTTOM, TOP)
    label = f"{x_label}, logarithmic" if x.log else x_label
    parts = [_grid(x, y, label, y_label, x_format, y_format)]
    if len(stairs) > 1:
        parts.append(_staircase([(x(p.x), y(p.y)) for p in stairs]))
    labels = place_labels(
        [(x(p.x), y(p.y)) for p in points],
        [shorten(p.name) if _named(p, len(points)) else "" for p in points],
        avoid=_thin_boxes(points, stairs, x, y),
    )
    for point, label_at in zip(points, labels, strict=True):
        parts.append(_mark(point, x, y, label_at))
    summary = f"{title}: {len(points)} candidates, {'higher' if better_up else 'lower'} and further left is better"
    return _svg(summary, parts)


def lines(curves: Sequence[Line], *, x_label: str, y_label: str, y_format: Format, title: str) -> str:
    """Draw curves over a shared x of whole numbers (epochs); points that are not finite are left out."""
    clean = [curve for curve in map(_finite, curves) if curve.points]
    if not clean:
        return _empty(title)
    xs = [x for curve in clean for x, _ in curve.points]
    ys = [y for curve in clean for _, y in curve.points]
    low, high = min(xs), max(xs)
    x = Axis(low, high, LEFT, WIDTH - RIGHT) if high > low else Axis(low - 1, low + 1, LEFT, WIDTH - RIGHT)
    y = _padded(ys, HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, x_label, y_label, lambda value: f"{value:g}", y_format, whole=True)]
    parts += [_curve(curve, index, x, y) for index, curve in enumerate(clean)]
    if len(clean) > 1:
        parts.append(_legend([curve.name for curve in clean]))
    return _svg(f"{title}: {', '.join(curve.name for curve in clean)}", parts)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers from low to high, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from low to high; the powers alone over more than three decades."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def place_labels(
    at: Sequence[tuple[float, float]], names: Sequence[str], avoid: Sequence[Box] = ()
) -> list[tuple[float, float, str, str] | None]:
    """Return (x, y, anchor, text) for each label, or None where it has no name or no free place.

    at: pixels of the marks. Each label tries right, left, above and below of its mark, and takes the first
    place that covers no mark, no earlier label and no edge; and none of `avoid`, if there is such a place.
    """
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in at]
    placed: list[tuple[float, float, str, str] | None] = []
    for (x, y), name in zip(at, names, strict=True):
        places = [_label_box(x, y, len(name), *offset) for offset in OFFSETS] if name else []
        free = [place for place in places if _inside(place[0]) and not _hits(place[0], taken)]
        box, label = next((p for p in free if not _hits(p[0], avoid)), free[0] if free else (None, None))
        placed.append((*label, name) if label else None)
        taken += [box] if box else []
    return placed


def _label_box(x: float, y: float, length: int, dx: float, dy: float, anchor: str) -> tuple[Box, Place]:
    width = CHARACTER * length
    left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return (left - 2, y + dy - 11, left + width + 2, y + dy + 3), (x + dx, y + dy, anchor)


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 14 and box[3] <= HEIGHT - BOTTOM


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


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


def shorten(text: str, length: int = 26) -> str:
    """Return the text, its middle left out where it is long: both ends tell names apart."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def xml(text: str) -> str:
    """Escape text for XML and HTML, inside quotes too; characters that XML forbids are left out."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text), quote=True)


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="group" aria-label="{xml(label)}">{"".join(parts)}</svg>'
    )


def _empty(title: str) -> str:
    return _svg(f"{title}: nothing to draw", [_text("axis", WIDTH / 2, HEIGHT / 2, "nothing to draw", "middle")])


def _x_axis(values: Sequence[float]) -> Axis:
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) > 10:
        return Axis(min(positive) / 1.5, max(positive) * 1.6, LEFT, WIDTH - RIGHT, log=True)
    low, high = min(0.0, *values), max(values)
    return Axis(low, high + (high - low or 1.0) * 0.14, LEFT, WIDTH - RIGHT)


def _padded(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    # Values that differ only by rounding would otherwise fill the whole height.
    room = max(0.12 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-9)
    return Axis(low - room, high + room, start, end)


def _ends(intervals: object) -> list[float]:
    return [end for pair in intervals if pair is not None for end in pair if is_number(end)]  # type: ignore[attr-defined]


def _finite(curve: Line) -> Line:
    """Return the curve without the points that cannot be drawn."""
    tips = list(curve.tips) if len(curve.tips) == len(curve.points) else [""] * len(curve.points)
    kept = [i for i, (x, y) in enumerate(curve.points) if is_number(x) and is_number(y)]
    mark = kept.index(curve.mark) if curve.mark in kept else None
    return Line(curve.name, [curve.points[i] for i in kept], [tips[i] for i in kept], mark)


def _grid(
    x: Axis, y: Axis, x_label: str, y_label: str, x_format: Format, y_format: Format, *, whole: bool = False
) -> str:
    parts = []
    for value in log_ticks(x.low, x.high) if x.log else ticks(x.low, x.high, 6, whole=whole):
        at = f"{x(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text("axis", x(value), HEIGHT - BOTTOM + 17, x_format(value), "middle"))
    for value in ticks(y.low, y.high):
        at = f"{y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(_text("axis", LEFT - 8, y(value) + 4, y_format(value), "end"))
    parts.append(_text("label", LEFT, TOP - 16, y_label))
    parts.append(_text("label", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _text(look: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{xml(text)}</text>'


def _staircase(at: Sequence[tuple[float, float]]) -> str:
    """Draw what is reached at each cost: level until the next point of the front, then up to it."""
    path = f"M{at[0][0]:.1f} {at[0][1]:.1f}"
    for x, y in at[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return f'<path class="front-line" d="{path}H{WIDTH - RIGHT}"/>'


def _named(point: Point, count: int) -> bool:
    return point.role != "other" or count <= 8


def _mark(point: Point, x: Axis, y: Axis, label: tuple[float, float, str, str] | None) -> str:
    at_x, at_y = x(point.x), y(point.y)
    parts = []
    if point.x_interval and all(map(is_number, point.x_interval)):
        low, high = (x(end) for end in point.x_interval)
        parts.append(f'<path class="interval" d="M{low:.1f} {at_y:.1f}H{high:.1f}"/>')
    if point.y_interval and all(map(is_number, point.y_interval)):
        low, high = (y(end) for end in point.y_interval)
        parts.append(f'<path class="interval" d="M{at_x:.1f} {low:.1f}V{high:.1f}"/>')
    if point.role == "best":
        parts.append(f'<circle class="ring" cx="{at_x:.1f}" cy="{at_y:.1f}" r="10"/>')
    if point.role == "baseline":
        corners = f"M{at_x:.1f} {at_y - 8:.1f}l8 8l-8 8l-8-8z"
        parts.append(f'<path class="dot" d="{corners}"/>')
    else:
        parts.append(f'<circle class="dot" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5.5"/>')
    if label:
        parts.append(_text("name", label[0], label[1], label[3], label[2]))
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


def _legend(names: Sequence[str]) -> str:
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
