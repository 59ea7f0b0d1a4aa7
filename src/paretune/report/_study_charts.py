"""The drawings of a study of hyperparameters, each from plain rows as `paretune.search` hands them over."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.report._axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis
from paretune.report._charts import Point, legend, scatter
from paretune.report._format import plain_text, seconds_text
from paretune.report._frame import MOST, Format, caption, empty, grid, padded, svg, xml
from paretune.report._labels import shorten

Row = Mapping[str, Any]
SPAN = 30.0
"""Ratio of the largest to the smallest from which an axis is logarithmic."""
WIDE = 1080
"""Pixels across the parameters."""
SHARES = (0.05, 0.2, 0.5)
"""Ranks at which the look of a line across the parameters changes."""
MARKS = 6
"""Most words along the axis of a parameter."""


def best_so_far(curves: Sequence[Row], along: int, x_label: str, x_format: Format, name: str = "loss") -> str:
    """Draw the best value on each budget in steps. along: which entry of a point the x is (0 runs, 1 full, 2 s).

    name: of the value.
    """
    curves = [curve for curve in curves if curve["points"]][:6]
    if not curves:
        return empty("the best so far")
    y = _losses([point[3] for curve in curves for point in curve["points"]])
    x = _from_zero([point[along] for curve in curves for point in curve["points"]])
    parts = [grid(x, y, x_label, _y_label(f"best {name} so far", y), x_format, _number)]
    for index, curve in enumerate(curves):
        at = [(x(point[along]), y(point[3])) for point in curve["points"]]
        path = f"M{at[0][0]:.1f} {at[0][1]:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in at[1:])
        dots = [
            _sample(px, py, f"{_budget(curve)}: {point[3]:.5g}\nafter {point[0]} runs, {seconds_text(point[2])}")
            for (px, py), point in zip(at, curve["points"], strict=True)
        ]
        parts.append(f'<g class="curve c{index}"><path d="{path}"/>{"".join(dots)}</g>')
    if len(curves) > 1:
        parts.append(legend([_budget(curve) for curve in curves]))
    return svg(f"The best {name} so far against {x_label}", parts)


def rungs(found: Sequence[Row], promotions: Sequence[Row], name: str = "loss", *, least: bool = True) -> str:
    """Draw the values on each budget as dots, and lines along which configurations went on to larger ones.

    The worst tenth of all stands on the edge. least: whether the least value is the best.
    """
    values = sorted((value for rung in found for value in rung["values"]), reverse=not least)
    if not values:
        return empty(f"{name} by budget")
    y = _losses(values[: int(0.9 * (len(values) - 1)) + 1])
    x = Axis(-0.5, len(found) - 0.5, LEFT, WIDTH - RIGHT)
    names = {float(index): _budget(rung) for index, rung in enumerate(found)}
    parts = [grid(x, y, "budget", _y_label(name, y), lambda at: names[at], _number, x_ticks=list(names))]
    for line in promotions:
        at = " ".join(f"{x(rung):.1f},{y(value):.1f}" for rung, value in line["points"])
        tip = f"configuration {line['config']}\n" + "\n".join(
            f"{names[float(rung)]}: {value:.5g}" for rung, value in line["points"]
        )
        parts.append(f'<g class="promoted"{_tip(tip)}><polyline points="{at}"/></g>')
    for index, rung in enumerate(found):
        parts.append(_dots((x(index), y(value)) for value in rung["values"]))
    return svg(f"{name} on each of {len(found)} budgets", parts)


def objectives(points: Sequence[Row], front: Sequence[int], ways: Sequence[Sequence[str]]) -> str:
    """Draw runs by their first two objectives, those of the front marked. front: the numbers of its runs."""
    (up, up_way), (right, right_way), *more = ways
    marked = set(front)
    dots = [
        Point(
            f"run {point['run']}" if point["run"] in marked else "",
            point["values"][1],
            point["values"][0],
            role="front" if point["run"] in marked else "other",
            tip=f"run {point['run']}\n"
            + "\n".join(f"{name}: {value:.5g}" for (name, _), value in zip(ways, point["values"], strict=True)),
        )
        for point in points  # the front comes last, on top
    ]
    stairs = sorted((i for i, dot in enumerate(dots) if dot.role == "front"), key=lambda i: dots[i].x)
    return scatter(
        dots,
        line=stairs if right_way == "min" and not more else (),
        better_up=up_way == "max",
        better_left=right_way == "min",
        x_label=right,
        y_label=up,
        x_format=_number,
        y_format=_number,
        title=f"{up} against {right}",
    )


def across(coordinates: Row, parameters: Sequence[Row]) -> str:
    """Draw each run as a line across the parameters, the best ones on top; a gap where one is not active."""
    lines, names = coordinates["lines"], coordinates["parameters"]
    if not lines or not names:
        return empty("configurations across the parameters")
    x = Axis(0, max(1, len(names) - 1), LEFT, WIDE - LEFT - 40)
    y = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = []
    for line in sorted(lines, key=lambda line: -line["rank"]):
        look = f"q{bisect.bisect_right(SHARES, line['rank'])}"
        values = "\n".join(
            f"{name}: {plain_text(value)}"
            for name, value, unit in zip(names, line["values"], line["units"], strict=True)
            if unit is not None
        )
        tip = f"run {line['run']}: {line['value']:.5g}\n{values}"
        parts.append(f'<path class="{look}"{_tip(tip)} d="{_broken(line["units"], x, y)}"/>')
    for index, parameter in enumerate(parameters):
        at = x(index)
        parts.append(f'<line class="rail" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(caption("label", at, HEIGHT - BOTTOM + 20, shorten(parameter["name"], 16), "middle"))
        parts += [
            caption("name", at + 5, y(unit) + 4, shorten(words, 10)) for unit, words in _few(parameter["marks"])
        ]
    return svg(f"{len(lines)} configurations across {len(names)} parameters", [_group("across", parts)], WIDE)


def belief(parameter: Row) -> str:
    """Draw a parameter's prior, and where the good runs lie: densities, 1 where all values are as likely."""
    known = [("prior", parameter["prior"])]
    if parameter["posterior"] is not None:
        known.append(("good runs", parameter["posterior"]))
    words = {unit: shorten(told, 12) for unit, told in _few(parameter["marks"])}
    x = Axis(0.0, 1.0, LEFT, WIDTH - RIGHT)
    y = Axis(0.0, 1.1 * max(1.0, *(max(values) for _, values in known)), HEIGHT - BOTTOM, TOP)
    parts = [grid(x, y, parameter["name"], "density", lambda at: words[at], _number, x_ticks=list(words))]
    for index, (name, values) in enumerate(reversed(known)):
        look = len(known) - 1 - index
        at = [(x(unit), y(value)) for unit, value in zip(parameter["at"], values, strict=True)]
        if parameter["kind"] != "category":
            line = f'<polyline points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in at)}"/>'
        else:
            half = 0.4 * (WIDTH - LEFT - RIGHT) / len(at)
            line = "".join(
                f'<path d="M{px - half:.1f} {y(0):.1f}V{py:.1f}h{2 * half:.1f}V{y(0):.1f}"/>' for px, py in at
            )
        parts.append(f'<g class="curve c{(5, 0)[look]}" role="img" aria-label="{xml(name)}">{line}</g>')
    return svg(f"Prior and good runs of {parameter['name']}", parts)


def suggested(parameter: Row) -> str:
    """Draw the values of a parameter in the order in which they were suggested: the space as it narrowed."""
    points = parameter["suggested"]
    if not points:
        return empty(f"{parameter['name']} as it was suggested")
    words = {unit: shorten(told, 8) for unit, told in _few(parameter["marks"])}
    x, y = _from_zero([number for number, _ in points]), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    frame = grid(x, y, "configuration", parameter["name"], _number, lambda at: words[at], y_ticks=list(words))
    dots = _dots((x(number), y(unit)) for number, unit in points)
    return svg(f"{parameter['name']} as it was suggested", [frame, dots])


def times(rows: Sequence[Row]) -> str:
    """Draw what runs took against what was expected of them; against the budget where nothing was."""
    expected = [row for row in rows if row["predicted"] is not None]
    told = expected or [row for row in rows if row["budget"] is not None]
    if not told:
        return empty("seconds")
    y = _spread([row["seconds"] for row in told], HEIGHT - BOTTOM, TOP)
    places = [row["predicted"] if expected else float(row["budget"]) for row in told]
    x = _spread(places, LEFT, WIDTH - RIGHT, span=8.0)  # budgets climb by factors
    label = ("expected seconds" if expected else "budget") + (", logarithmic" if x.log else "")
    parts = [grid(x, y, label, _y_label("seconds", y), _number, _number)]
    if expected:
        low, high = max(x.low, y.low), min(x.high, y.high)
        if low < high:
            parts.append(f'<path class="front-line" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>')
    parts.append(_dots((x(place), y(row["seconds"])) for place, row in zip(places, told, strict=True)))
    return svg(f"Seconds of {len(told)} runs against {label}", parts)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _budget(row: Row) -> str:
    return "full" if row["budget"] is None else f"{row['budget']:.6g}"


def _y_label(text: str, y: Axis) -> str:
    return f"{text}, logarithmic" if y.log else text


def _losses(values: Sequence[float]) -> Axis:
    return _spread(values, HEIGHT - BOTTOM, TOP)


def _spread(values: Sequence[float], start: float, end: float, span: float = SPAN) -> Axis:
    """Return an axis over values, a logarithmic one where they are positive and `span` times apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low > span:
        return Axis(low / 1.2, min(high * 1.2, MOST), start, end, log=True)
    return padded(values, start, end)


def _from_zero(values: Sequence[float]) -> Axis:
    return Axis(0.0, max(values) or 1.0, LEFT, WIDTH - RIGHT)


def _few(marks: Sequence[Any]) -> Sequence[Any]:
    """Return every so many marks where there are too many to read."""
    return marks[:: -(-len(marks) // MARKS)] if marks else marks


def _broken(units: Sequence[float | None], x: Axis, y: Axis) -> str:
    """Return a path through the units of the parameters that are active; one alone is a dot."""
    path, open_ = "", False
    for index, unit in enumerate(units):
        if unit is not None:
            path += f"{'L' if open_ else 'M'}{x(index):.1f} {y(unit):.1f}" + ("" if open_ else "h0")
        open_ = unit is not None
    return path


def _dots(places: Any) -> str:
    """Draw many small dots as one path, which is a tenth of as many circles."""
    return f'<path class="dots" d="{"".join(f"M{px:.1f} {py:.1f}h0" for px, py in places)}"/>'


def _sample(px: float, py: float, tip: str) -> str:
    return (
        f'<circle class="sample" cx="{px:.1f}" cy="{py:.1f}" r="5"{_tip(tip)}><title>{xml(tip)}</title></circle>'
    )


def _tip(tip: str) -> str:
    return f' data-tip="{xml(tip)}"'


def _group(look: str, parts: Sequence[str]) -> str:
    return f'<g class="{look}">{"".join(parts)}</g>'
