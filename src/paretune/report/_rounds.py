"""The rounds of iterative pruning from a run's events: a drawing of metric against MACs, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.report._charts import Point, scatter
from paretune.report._format import (
    count_text,
    greater_is_better,
    interval_text,
    is_number,
    metric_text,
    plain_text,
    ratio_text,
)

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Rounds:
    """One iterative pruning."""

    title: str
    rows: tuple[dict[str, str], ...]
    """name, teacher, value, interval, before, macs, macs_ratio, params, latency, latency_interval."""
    drawing: str


def iterations(events: Sequence[Event]) -> list[Rounds]:
    """Return every iterative pruning of a run; a later one of the same step replaces an earlier."""
    groups: dict[str, list[Event]] = {}
    for event in events:
        if event.get("kind") != "round":
            continue
        title = f"{plain_text(event['candidate'])}: " if event.get("candidate") else ""
        title += plain_text(event.get("step") or "prune.iterative")
        if event.get("round") == 0:
            groups[title] = []
        groups.setdefault(title, []).append(event)
    return [_of(title, group) for title, group in groups.items()]


def _of(title: str, events: Sequence[Event]) -> Rounds:
    whole = events[0].get("macs")
    return Rounds(title, tuple(_row(event, whole) for event in events), _drawing(title, events, whole))


def _row(event: Event, whole: Any) -> dict[str, str]:
    metric, time = _mapping(event, "metric"), _mapping(event, "latency")
    ends = (time.get("low"), time.get("high"))
    return {
        "name": _name(event),
        "teacher": plain_text(event.get("teacher")),
        "before": metric_text(event.get("before"), metric),
        "value": metric_text(metric.get("value"), metric),
        "interval": interval_text(metric.get("low"), metric.get("high"), metric),
        "macs": count_text(event.get("macs")),
        "macs_ratio": ratio_text(_ratio(event.get("macs"), whole)),
        "params": count_text(event.get("nonzero")),
        "latency": ratio_text(time.get("ratio")),
        "latency_interval": " to ".join(map(ratio_text, ends)) if all(map(is_number, ends)) else "",
    }


def _drawing(title: str, events: Sequence[Event], whole: Any) -> str:
    metric = _mapping(events[0], "metric")
    points = [_point(event, whole) for event in events if is_number(_mapping(event, "metric").get("value"))]
    if not points:
        return ""
    return scatter(
        points,
        better_up=greater_is_better(metric),
        x_label="MACs against the incoming model",
        y_label=plain_text(metric.get("name")),
        x_format=ratio_text,
        y_format=lambda value: metric_text(value, metric),
        title=title,
    )


def _point(event: Event, whole: Any) -> Point:
    metric, number = _mapping(event, "metric"), event.get("round")
    low, high = metric.get("low"), metric.get("high")
    row = _row(event, whole)
    role = "baseline" if number == 0 else "other" if number == "one-shot" else "front"
    interval = (low, high) if is_number(low) and is_number(high) else None
    tip = f"{row['name']}\n{row['value']} ({row['interval']})\nMACs {row['macs_ratio']}, latency {row['latency']}"
    x = _ratio(event.get("macs"), whole)
    return Point(row["name"], x if x is not None else float("nan"), metric["value"], None, interval, role, tip)


def _name(event: Event) -> str:
    number = event.get("round")
    return "incoming" if number == 0 else "one-shot" if number == "one-shot" else f"round {plain_text(number)}"


def _ratio(value: Any, whole: Any) -> float | None:
    return value / whole if is_number(value) and is_number(whole) and whole else None


def _mapping(event: Event, key: str) -> Mapping[str, Any]:
    found = event.get(key)
    return found if isinstance(found, Mapping) else {}
