"""The parts of the page beside the table, as plain values: the front, layers, certificates, what did not help.

Each is a pure function of what `_summary.read_run` read, and leaves out what a run does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.artifact import Certificate
from paretune.report._charts import Point, scatter
from paretune.report._format import (
    MISSING,
    bytes_text,
    count_text,
    greater_is_better,
    is_number,
    metric_text,
    plain_text,
    ratio_text,
)
from paretune.report._front import front
from paretune.report._rows import Row, reasons_against
from paretune.report._summary import Run

LONGEST = 600
"""Characters of a note or an error that are shown."""


@dataclass(frozen=True)
class Layer:
    """One layer before and after, ready to print."""

    name: str
    type: str
    channels: str
    kept: float | None
    """Fraction of the channels kept, for the bar."""
    macs: tuple[str, str]
    """(before and after, ratio); so are bytes."""
    bytes: tuple[str, str]
    error: str
    changed: bool


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
                focus=sorted({*best, *(i for i in known if rows[i].role != "other")}),
                better_up=better,
                x_label=label,
                y_label=f"{metric['name']}, 95 % interval",
                x_format=(lambda v: f"{v:g}x") if what == "latency" else bytes_text,
                y_format=lambda v: metric_text(v, {**metric, "n": 0}),
                title=f"{metric['name']} against {what}",
            )
        )
    return drawings


def layers_of(candidate: Mapping[str, Any]) -> list[Layer]:
    """Return a candidate's layers; none where it has none."""
    found = candidate.get("layers")
    return [_layer(entry) for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def certificate_rows(certificates: Mapping[str, Certificate]) -> list[dict[str, Any]]:
    """Return each certificate with its checks, ready to print."""
    return [
        {
            "name": name,
            "artifact": certificate.artifact,
            "sha256": certificate.sha256,
            "against": "PyTorch" if certificate.kind == "float" else "own graph, unoptimised",
            "tolerance": _tolerance(certificate),
            "remarks": _remarks(certificate),
            "checks": [
                {
                    "batch": check.batch,
                    "error": f"{check.error:.2g}",
                    "ok": check.ok,
                    "diverges_at": check.diverges_at or "",
                }
                for check in certificate.batches
            ],
        }
        for name, certificate in certificates.items()
    ]


def _tolerance(certificate: Certificate) -> str:
    if certificate.kind == "float":
        return f"{certificate.tolerance:g} relative"
    return f"{certificate.tolerance:g} {'step' if certificate.tolerance == 1 else 'steps'} of the output's grid"


def _remarks(certificate: Certificate) -> list[str]:
    """Return what was re-measured from the file, and what the user must know of it."""
    remarks, metric = [], certificate.metric
    if is_number(metric.get("value")):
        split = f" on {metric['split']}" if metric.get("split") else ""
        value = metric_text(metric["value"], metric)
        remarks.append(f"{metric.get('name', 'metric')} from the file{split}: {value}")
    if certificate.drop_against_float is not None:
        remarks.append(f"largest difference to the float graph's outputs: {certificate.drop_against_float:.2g}")
    if certificate.fixed_batch is not None:
        remarks.append(f"takes only batch {certificate.fixed_batch}")
    return remarks


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
    snr = entry.get("snr_db")
    return Layer(
        name=str(entry.get("name", "")),
        type=str(entry.get("type", "")),
        channels=_change(before, after, plain_text)[0],
        kept=min(after / before, 1.0) if is_number(before) and is_number(after) and before > 0 else None,
        macs=_change(entry.get("macs_before"), entry.get("macs_after"), count_text),
        bytes=_change(entry.get("bytes_before"), entry.get("bytes_after"), bytes_text),
        error=f"{snr:.1f} dB" if is_number(snr) else MISSING,
        changed=is_number(snr)
        or any(
            entry.get(f"{what}_before") != entry.get(f"{what}_after") for what in ("channels", "macs", "bytes")
        ),
    )


def _change(before: Any, after: Any, text: Callable[[Any], str]) -> tuple[str, str]:
    """Return (`64 -> 32` with an arrow, `0.50x`); one number without a ratio where nothing changed."""
    if not is_number(before) and not is_number(after):
        return MISSING, ""
    if before == after:
        return text(after), ""
    known = is_number(before) and is_number(after) and before > 0
    return f"{text(before)} → {text(after)}", ratio_text(after / before) if known else ""


def _label(key: Any) -> str:
    return {"name": "processor", "flags": "instruction flags", "flags_hash": "hash of the flags"}.get(
        str(key), str(key).replace("_", " ")
    )
