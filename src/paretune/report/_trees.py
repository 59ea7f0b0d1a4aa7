"""The removal trees of neighbour pruning from a run's `tree` events: which unit led to which, and how alike
they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretune.report._charts import Node, tree
from paretune.report._curves import Curves, Event
from paretune.report._format import is_number, plain_text

MOST = 6
"""Trees that are drawn of one pruning, those with the most units."""


def removal_trees(events: Sequence[Event], most: int) -> list[Curves]:
    """Return the trees of each pruning, at most `most` units each; a group that comes again begins another one."""
    found: list[list[Event]] = []
    for event in events:
        if event.get("kind") != "tree" or not _removed(event):
            continue
        last = found[-1] if found else []
        same = bool(last) and all(last[0].get(key) == event.get(key) for key in ("candidate", "step"))
        if not same or any(other.get("group") == event.get("group") for other in last):
            found.append([])
        found[-1].append(event)
    return [_curves(some, most) for some in found]


def _curves(events: Sequence[Event], most: int) -> Curves:
    drawn = sorted(sorted(range(len(events)), key=lambda i: -len(_removed(events[i])))[:MOST])
    step = plain_text(events[0].get("step") or "prune.neighbours")
    many = f"{len(events)} group{'s' if len(events) > 1 else ''} of units"
    left = "" if len(drawn) == len(events) else f"{len(drawn)} of "
    caption = f"{left}{many}; in the order in which they went, each joined to the removed unit that led to it"
    return Curves(f"{step}, removal trees", caption, tuple(_drawing(events[i], most) for i in drawn))


def _drawing(event: Event, most: int) -> str:
    rows = _removed(event)[:most]
    place = {row["unit"]: index for index, row in enumerate(rows)}
    nodes = [
        Node(index + 1, row["similarity"], place.get(row.get("parent")), _tip(row))  # a parent went before
        for index, row in enumerate(rows)
    ]
    return tree(
        nodes,
        x_label="order of removal",
        y_label="similarity to what takes over",
        y_format=lambda value: f"{value:.2g}",
        title=plain_text(event.get("group")),
    )


def _tip(row: Mapping[str, Any]) -> str:
    into = "nothing takes over" if row.get("into") is None else f"unit {plain_text(row['into'])} takes over"
    return f"unit {plain_text(row['unit'])}\n{into}, similarity {row['similarity']:.3g}"


def _removed(event: Event) -> list[Mapping[str, Any]]:
    """Return the rows that can be drawn."""
    rows = event.get("removed")
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and is_number(row.get("similarity")) and isinstance(row.get("unit"), int)
    ]
