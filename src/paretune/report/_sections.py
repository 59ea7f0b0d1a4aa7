"""The parts of the page below the table, as plain values: layers, curves, certificates, machine, what did not help.

Each is a pure function of what `_summary.read_run` read, and leaves out what a run does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.artifact import Certificate
from paretune.report._charts import Line, Point, lines, scatter
from paretune.report._format import (
    MISSING,
    bytes_text,
    count_text,
    greater_is_better,
    is_fraction,
    is_number,
    metric_text,
    plain_text,
    ratio_text,
    seconds_text,
)
from paretune.report._front import front
from paretune.report._rows import Row, reasons_against
from paretune.report._summary import Run

LONGEST = 600
"""Characters of a note or an error that are shown."""


@dataclass(frozen=True)
class Curves:
    """The training curves of one step."""

    title: str
    caption: str
    drawings: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One layer before and after, ready to print."""

    name: str
    type: str
    channels: str
    kept: float | None
    """Fraction of the channels kept, for the bar."""
    macs: str
    bytes: str
    error: str


def front_drawings(summary: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Return the two scatter plots: the metric against latency, and against bytes."""
    candidates = summary["candidates"]
    metric = candidates[0]["metric"]
    better = greater_is_better(metric)
    drawings = []
    for what, label in (("latency", "latency, ratio to the baseline"), ("bytes", "bytes on disk")):
        places = [(_cost(candidate, what), candidate["metric"]["value"]) for candidate in candidates]
        known = [i for i, place in enumerate(places) if is_number(place[0]) and is_number(place[1])]
        best = [known[i] for i in front([places[i] for i in known], greater_is_better=better)]
        points = [
            _point(candidate, row, place, i in best, what)
            for i, (candidate, row, place) in enumerate(zip(candidates, rows, places, strict=True))
        ]
        drawings.append(
            scatter(
                points,
                line=best,
                better_up=better,
                x_label=label,
                y_label=f"{metric['name']}, 95 % interval",
                x_format=(lambda v: f"{v:g}x") if what == "latency" else bytes_text,
                y_format=lambda v: metric_text(v, {**metric, "n": 0}),
                title=f"{metric['name']} against {what}",
            )
        )
    return drawings


def layers_of(candidate: Mapping[str, Any], limit: int) -> list[Layer]:
    """Return a candidate's layers, at most `limit` of them."""
    found = candidate.get("layers")
    known = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
    return [_layer(entry) for entry in known[:limit]]


def training_curves(events: Sequence[Mapping[str, Any]], metric: Mapping[str, Any], points: int) -> list[Curves]:
    """Return the curves of each training step, loss and metric, at most `points` samples a line."""
    return [_curves(epochs, metric, points) for epochs in group_epochs(events)]


def group_epochs(events: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the epoch events of each training, in order of epoch.

    A training goes on while candidate and step stay the same. One that a resumed run went back in replaces what
    it repeats; one that starts again from its first epoch is another training.
    """
    groups: list[list[Mapping[str, Any]]] = []
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


def certificate_rows(certificates: Mapping[str, Certificate]) -> list[dict[str, Any]]:
    """Return one row for each check of each certificate."""
    return [
        {
            "name": name,
            "artifact": certificate.artifact,
            "against": "PyTorch" if certificate.kind == "float" else "its own graph, optimisations off",
            "batch": check.batch,
            "error": f"{check.error:.2g}",
            "tolerance": f"{certificate.tolerance:g} {'relative' if certificate.kind == 'float' else 'steps'}",
            "ok": check.ok,
            "diverges_at": check.diverges_at or "",
        }
        for name, certificate in certificates.items()
        for check in certificate.batches
    ]


def certificate_notes(certificates: Mapping[str, Certificate]) -> list[dict[str, str]]:
    """Return for each certificate what was re-measured from the file, and the file's hash."""
    notes = []
    for name, certificate in certificates.items():
        parts = []
        metric = certificate.metric
        if is_number(metric.get("value")):
            split = f" on {metric['split']}" if metric.get("split") else ""
            parts.append(
                f"{metric.get('name', 'metric')} from the file{split}: {metric_text(metric['value'], metric)}"
            )
        if certificate.drop_against_float is not None:
            parts.append(
                f"outputs differ from the float graph's by {certificate.drop_against_float:.2g} of the largest"
            )
        if certificate.fixed_batch is not None:
            parts.append(f"the model takes only batch {certificate.fixed_batch}")
        notes.append({"name": name, "text": "; ".join(parts), "sha256": certificate.sha256})
    return notes


def machine_rows(target: Any, certificates: Mapping[str, Certificate]) -> list[tuple[str, str]]:
    """Return (what, value) of the target, the machine, and the versions that the certificates name."""
    if not isinstance(target, Mapping):
        return [("target", plain_text(target))]
    machine = target.get("machine")
    found = {**{key: value for key, value in target.items() if key != "machine"}}
    found |= machine if isinstance(machine, Mapping) else {}
    versions = {key: value for certificate in certificates.values() for key, value in certificate.versions.items()}
    entries = [(_label(key), plain_text(value)) for key, value in found.items()]
    return entries + [(f"{key} version", str(value)) for key, value in versions.items()]


def did_not_help(run: Run, limit: int) -> list[tuple[str, str]]:
    """Return (where, why): candidates that are not faster or not within, then every note and warning, once."""
    found: list[tuple[str, str]] = []
    for candidate in run.summary["candidates"][1:]:
        found += [(str(candidate["name"]), reason) for reason in reasons_against(candidate)]
    for candidate in run.summary["candidates"]:
        notes = candidate.get("notes")
        found += [
            (str(candidate["name"]), plain_text(note)) for note in (notes if isinstance(notes, list) else ())
        ]
    said = {text for _, text in found}
    for event in run.events:
        if event.get("kind") in ("note", "warning"):
            text = plain_text(event.get("text") or event.get("message") or event.get("note") or "")
            if text and text not in said:
                found.append((plain_text(event.get("step") or event.get("candidate") or event["kind"]), text))
    found += [("report", problem) for problem in run.problems]
    unique = list(dict.fromkeys((where, text[:LONGEST]) for where, text in found))
    left = [("report", f"{len(unique) - limit} more stand in events.jsonl and summary.json")]
    return unique if len(unique) <= limit else unique[:limit] + left


def _cost(candidate: Mapping[str, Any], what: str) -> Any:
    return candidate["latency"]["ratio"] if what == "latency" else candidate["bytes"]


def _point(candidate: Mapping[str, Any], row: Row, place: tuple[Any, Any], on_front: bool, what: str) -> Point:
    metric, latency = candidate["metric"], candidate["latency"]
    timed = what == "latency" and row.role != "baseline"
    return Point(
        name=row.name,
        x=place[0],
        y=place[1],
        x_interval=(latency["ratio_low"], latency["ratio_high"]) if timed else None,
        y_interval=(metric["low"], metric["high"]),
        role=row.role if row.role != "other" else "front" if on_front else "other",
        tip=row.tip,
    )


def _layer(entry: Mapping[str, Any]) -> Layer:
    before, after = entry.get("channels_before"), entry.get("channels_after")
    known = is_number(before) and is_number(after) and before  # type: ignore[truthy-bool]
    snr = entry.get("snr_db")
    return Layer(
        name=str(entry.get("name", "")),
        type=str(entry.get("type", "")),
        channels=_change(before, after, plain_text),
        kept=min(after / before, 1.0) if known else None,  # type: ignore[operator]
        macs=_change(entry.get("macs_before"), entry.get("macs_after"), count_text),
        bytes=_change(entry.get("bytes_before"), entry.get("bytes_after"), bytes_text),
        error=f"{snr:.1f} dB" if is_number(snr) else MISSING,
    )


def _change(before: Any, after: Any, text: Any) -> str:
    if not is_number(before) and not is_number(after):
        return MISSING
    if before == after:
        return str(text(after))
    ratio = f" ({ratio_text(after / before)})" if is_number(before) and is_number(after) and before else ""
    return f"{text(before)} → {text(after)}{ratio if text is not plain_text else ''}"


def _curves(epochs: Sequence[Mapping[str, Any]], metric: Mapping[str, Any], points: int) -> Curves:
    first, last = epochs[0], epochs[-1]
    shown = _thinned(epochs, points)
    step = plain_text(first.get("step") or "training")
    name = plain_text(last.get("metric") or metric["name"])
    described = metric if name == metric["name"] else {"name": name}
    title = f"{plain_text(first['candidate'])}: {step}" if first.get("candidate") else step
    drawings = []
    losses = [_line("loss", shown, lambda e: e.get("loss"), lambda v: f"{v:.4g}")]
    terms = list(dict.fromkeys(key for event in shown for key in _terms(event)))
    if len(terms) > 1:
        losses += [_line(key, shown, lambda e, key=key: _terms(e).get(key), lambda v: f"{v:.4g}") for key in terms]
    values = [_line(name, shown, lambda e: e.get("value"), lambda v: metric_text(v, described))]
    number = (
        (lambda v: metric_text(v, {**described, "n": 0})) if is_fraction(described) else (lambda v: f"{v:.4g}")
    )
    for curves, y_label, y_format in ((losses, "loss", lambda v: f"{v:.3g}"), (values, name, number)):
        if any(is_number(y) for curve in curves for _, y in curve.points):
            drawings.append(
                lines(curves, x_label="epoch", y_label=y_label, y_format=y_format, title=f"{title}, {y_label}")
            )
    return Curves(title, _caption(epochs, described), tuple(drawings))


def _line(name: str, events: Sequence[Mapping[str, Any]], value: Any, text: Any) -> Line:
    points = [(event["epoch"], value(event)) for event in events]
    tips = [
        f"epoch {plain_text(event['epoch'])}\n{name} {text(y) if is_number(y) else MISSING}"
        + (f"\nlearning rate {event['lr']:.3g}" if is_number(event.get("lr")) else "")
        for event, (_, y) in zip(events, points, strict=True)
    ]
    return Line(name, points, tips)


def _terms(event: Mapping[str, Any]) -> Mapping[str, Any]:
    terms = event.get("terms")
    return terms if isinstance(terms, Mapping) else {}


def _caption(epochs: Sequence[Mapping[str, Any]], metric: Mapping[str, Any]) -> str:
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


def _thinned(events: Sequence[Mapping[str, Any]], points: int) -> list[Mapping[str, Any]]:
    """Return at most `points` events at even distances, the first and the last among them."""
    if len(events) <= points:
        return list(events)
    return [events[round(i * (len(events) - 1) / (points - 1))] for i in range(points)]


def _label(key: Any) -> str:
    return {"name": "processor", "flags": "instruction flags", "flags_hash": "hash of the flags"}.get(
        str(key), str(key).replace("_", " ")
    )
