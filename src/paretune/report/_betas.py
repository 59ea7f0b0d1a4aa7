"""The way of beta from a run's `beta` events: how the gates of each group of channels moved while they learned.

Drawn are, layer by layer, the median and the lower quartile: where the two part, channels were told from one
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from paretune.report._charts import Line, lines
from paretune.report._curves import Curves, Event, thinned
from paretune.report._format import is_number, plain_text

EACH = 6
"""Layers in one drawing: so many looks a line can have."""
MOST = 12
"""Layers that are drawn, those with the most channels."""
SHOWN = (("median", 2), ("lower quartile", 1))


def beta_curves(events: Sequence[Event], points: int) -> list[Curves]:
    """Return the ways of beta of each training of gates, at most `points` samples a line; several are numbered."""
    found = group_ways(events)
    made = []
    for number, ways in enumerate(found, start=1):
        title = plain_text(ways[0].get("step") or "prune.learned") + (f" {number}" if len(found) > 1 else "")
        made.append(_curves(f"{title}, beta", ways, points))
    return made


def group_ways(events: Sequence[Event]) -> list[list[Event]]:
    """Return the ways of each training that can be drawn; another begins where a group of channels comes again."""
    found: list[list[Event]] = []
    for event in events:
        if event.get("kind") != "beta" or not _can_be_drawn(event):
            continue
        last = found[-1] if found else []
        same = bool(last) and all(last[0].get(key) == event.get(key) for key in ("candidate", "step"))
        if not same or any(way["group"] == event["group"] for way in last):
            found.append([])
        found[-1].append(event)
    return found


def _curves(title: str, ways: Sequence[Event], points: int) -> Curves:
    drawn = sorted(sorted(range(len(ways)), key=lambda i: -ways[i]["channels"])[:MOST])
    drawings = []
    for start in range(0, len(drawn), EACH):
        some = [ways[i] for i in drawn[start : start + EACH]]
        for name, place in SHOWN:
            drawings.append(
                lines(
                    [_line(way, place, points) for way in some],
                    x_label="step of training",
                    y_label=f"beta, {name}",
                    y_format=lambda value: f"{value:.3g}",
                    title=f"{title}, {name}",
                )
            )
    many = f"{len(ways)} group{'s' if len(ways) > 1 else ''} of channels"
    left = "" if len(drawn) == len(ways) else f"{len(drawn)} of "
    return Curves(title, f"{left}{many}; a gate is sigmoid(beta)", tuple(drawings))


def _line(way: Event, place: int, points: int) -> Line:
    name = plain_text(way["group"])
    rows = thinned(list(zip(way["steps"], way["quantiles"], strict=True)), points)
    tips = [
        f"{name}, step {step:g}\nbeta {row[2]:.3g}, half of them {row[1]:.3g} to {row[3]:.3g}\n"
        f"all {row[0]:.3g} to {row[4]:.3g}"
        for step, row in rows
    ]
    return Line(name, [(step, row[place]) for step, row in rows], tips)


def _can_be_drawn(way: Event) -> bool:
    if not is_number(way.get("channels")):
        return False
    steps, rows = way.get("steps"), way.get("quantiles")
    if not isinstance(steps, list) or not isinstance(rows, list) or not 0 < len(steps) == len(rows):
        return False
    whole = all(isinstance(row, list) and len(row) == 5 for row in rows)
    return "group" in way and whole and all(map(is_number, _flat(steps, rows)))


def _flat(steps: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Iterator[Any]:
    yield from steps
    for row in rows:
        yield from row
