"""Training curves from a run's epoch events: loss with its terms, and the metric, a pair for each training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paretune.report._charts import Line, lines
from paretune.report._format import MISSING, is_fraction, is_number, metric_text, plain_text, seconds_text

Event = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Curves:
    """The training curves of one step."""

    title: str
    caption: str
    drawings: tuple[str, ...]


def training_curves(events: Sequence[Event], metric: Mapping[str, Any], points: int) -> list[Curves]:
    """Return the curves of each training, loss and metric, at most `points` samples a line.

    Trainings of one name (a search trains many) are numbered.
    """
    groups = group_epochs(events)
    titles = [_title(epochs[0]) for epochs in groups]
    return [
        _curves(
            epochs,
            title if titles.count(title) == 1 else f"{title} {titles[: i + 1].count(title)}",
            metric,
            points,
        )
        for i, (epochs, title) in enumerate(zip(groups, titles, strict=True))
    ]


def group_epochs(events: Sequence[Event]) -> list[list[Event]]:
    """Return the epoch events of each training, in order of epoch.

    A training goes on while candidate and step stay the same. One that a resumed run went back in replaces what
    it repeats; one that starts again from its first epoch is another training.
    """
    groups: list[list[Event]] = []
    for event in events:
        if event.get("kind") != "epoch" or not is_number(event.get("epoch")):
            continue
        last = groups[-1] if groups else []
        same = bool(last) and all(last[0].get(key) == event.get(key) for key in ("candidate", "step"))
        if not same or event["epoch"] <= last[0]["epoch"]:
            groups.append([event])
            continue
        while last[-1]["epoch"] >= event["epoch"]:
            last.pop()
        last.append(event)
    return groups


def _title(event: Event) -> str:
    step = plain_text(event.get("step") or "training")
    return f"{plain_text(event['candidate'])}: {step}" if event.get("candidate") else step


def _curves(epochs: Sequence[Event], title: str, metric: Mapping[str, Any], points: int) -> Curves:
    name = plain_text(epochs[-1].get("metric") or metric["name"])
    described = metric if name == metric["name"] else {"name": name}
    shown = thinned(epochs, points)
    drawings = (
        _drawing(title, "loss", _losses(shown), lambda value: f"{value:.3g}"),
        _drawing(title, name, [_metric_line(name, shown, described)], _tick_text(described)),
    )
    return Curves(title, _caption(epochs, described), tuple(drawing for drawing in drawings if drawing))


def _drawing(title: str, what: str, curves: Sequence[Line], y_format: Callable[[float], str]) -> str:
    """Return the drawing, or nothing where no point can be drawn."""
    if not any(is_number(y) for curve in curves for _, y in curve.points):
        return ""
    return lines(curves, x_label="epoch", y_label=what, y_format=y_format, title=f"{title}, {what}")


def _losses(events: Sequence[Event]) -> list[Line]:
    """Return the loss, and its terms where it is a sum of several."""
    found = [_line("loss", events, [event.get("loss") for event in events], lambda value: f"{value:.4g}")]
    names = list(dict.fromkeys(name for event in events for name in _terms(event)))
    for name in names if len(names) > 1 else ():
        values = [_terms(event).get(name) for event in events]
        found.append(_line(plain_text(name), events, values, lambda value: f"{value:.4g}"))
    return found


def _metric_line(name: str, events: Sequence[Event], metric: Mapping[str, Any]) -> Line:
    """Return the metric on validation data; the epoch that was the best when the training ended is marked."""
    values = [event.get("value") for event in events]
    best = events[-1].get("best")
    mark = values.index(best) if is_number(best) and best in values else None
    return _line(name, events, values, lambda value: metric_text(value, metric), mark)


def _line(
    name: str,
    events: Sequence[Event],
    values: Sequence[Any],
    text: Callable[[float], str],
    mark: int | None = None,
) -> Line:
    tips = [
        f"epoch {plain_text(event['epoch'])}\n{name} {text(value) if is_number(value) else MISSING}"
        + (f"\nlearning rate {event['lr']:.3g}" if is_number(event.get("lr")) else "")
        for event, value in zip(events, values, strict=True)
    ]
    points = [(event["epoch"], value) for event, value in zip(events, values, strict=True)]
    return Line(name, points, tips, mark)


def _tick_text(metric: Mapping[str, Any]) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:g} %") if is_fraction(metric) else (lambda value: f"{value:.4g}")


def _terms(event: Event) -> Mapping[str, Any]:
    terms = event.get("terms")
    return terms if isinstance(terms, Mapping) else {}


def _caption(epochs: Sequence[Event], metric: Mapping[str, Any]) -> str:
    last = epochs[-1]
    parts = [f"{len(epochs)} epochs"]
    if is_number(last.get("epochs")) and last["epochs"] > last["epoch"]:
        parts = [f"stopped after epoch {last['epoch']:g} of {last['epochs']:g}"]
    if is_number(last.get("best")):
        parts.append(f"best {metric_text(last['best'], metric)}")
    seconds = [event["seconds"] for event in epochs if is_number(event.get("seconds"))]
    if seconds:
        parts.append(seconds_text(sum(seconds)))
    return ", ".join(parts)


def thinned(events: Sequence[Item], points: int) -> list[Item]:
    """Return at most `points` of them at even distances, the first and the last among them."""
    if len(events) <= points:
        return list(events)
    return [events[round(i * (len(events) - 1) / (points - 1))] for i in range(points)]
