"""One self-contained page from a run folder: no outside address, under 1 MB, readable in light and dark.

The template only lays out; what it shows is built here and in `_rows` and `_sections`. Autoescape is on, and
the page forbids itself every connection and every script but its own (Content-Security-Policy), so that a name
from a user's model cannot act. Where a run is so large that the page would pass 1 MB, it is built once more
with fewer layers, curve samples and notes, and says so: everything stands in `summary.json`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from paretune.files import write_text
from paretune.report._betas import beta_curves
from paretune.report._curves import training_curves
from paretune.report._format import plain_text
from paretune.report._rounds import iterations
from paretune.report._rows import Row, behaviour_rows, headline, rows
from paretune.report._sections import (
    certificate_rows,
    did_not_help,
    front_drawings,
    layers_of,
    machine_rows,
)
from paretune.report._summary import Run, read_run
from paretune.report._trees import removal_trees

LARGEST = 1_000_000
"""Bytes that a report may have."""


@dataclass(frozen=True)
class Limits:
    """How much of a large run the page shows."""

    layers: int = 400
    """Of one candidate."""
    layered: int = 8
    """Candidates whose layers are shown, the best first."""
    samples: int = 120
    """Of one training curve."""
    curves: int = 24
    """Trainings that are drawn, the last ones."""
    notes: int = 200
    details: int = 60
    """Candidates whose recipe and behaviour are shown."""
    betas: int = 3
    """Trainings of gates that are drawn, the last ones."""


SHORTER = (Limits(), Limits(120, 3, 60, 12, 60, 20, 2), Limits(40, 1, 30, 4, 20, 5, 1))


def html(folder: str | Path) -> str:
    """Return the report of a run folder as one HTML page; see `read_summary` for the errors."""
    run = read_run(folder)
    page = ""
    for limits in SHORTER:
        page = _render(run, limits)
        if len(page.encode()) < LARGEST:
            break
    return page


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run folder, to `report.html` inside it unless told otherwise; return its path."""
    target = Path(folder) / "report.html" if path is None else Path(path)
    write_text(target, html(folder))
    return target


def _render(run: Run, limits: Limits) -> str:
    return rendered("report.html", **_content(run, limits))


def rendered(template: str, **content: Any) -> str:
    """Return a page: a template with its content, and the style and script that all pages have."""
    script = _source("report.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **content,
            style=Markup(_source("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("paretune.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()


def _content(run: Run, limits: Limits) -> dict[str, Any]:
    """Return everything the template shows."""
    summary = run.summary
    made = rows(summary)
    baseline, metric = made[0], summary["candidates"][0]["metric"]
    best = next((row for row in made if row.role == "best"), None)
    constraints = _constraints(run)
    pairs = sorted(zip(summary["candidates"], made, strict=True), key=lambda pair: pair[1].role != "best")
    return {
        "task": plain_text(summary["task"]),
        "headline": headline(summary, constraints),
        "constraints": [(key.replace("_", " "), plain_text(value)) for key, value in constraints.items()],
        "metric": str(metric["name"]),
        "split": plain_text(summary["candidates"][0].get("split") or "held-out"),
        "tiles": _tiles(baseline, best),
        "drawings": [Markup(drawing) for drawing in front_drawings(summary, made)],
        "baseline": baseline,
        "rows": made,
        "layers": _layers(pairs, limits),
        "curves": _curves(run, limits),
        "iterations": [
            {"title": one.title, "rows": one.rows, "drawing": Markup(one.drawing)}
            for one in iterations(run.events)[-limits.curves :]
        ],
        "certificates": certificate_rows(run.certificates),
        "machine": machine_rows(summary["target"], run.certificates),
        "details": [_detail(candidate, row) for candidate, row in pairs[: limits.details]],
        "unhelpful": did_not_help(run, limits.notes),
        "recipe": run.recipe[:20_000],
        "folder": run.folder.name,
        "shortened": limits != SHORTER[0],
    }


def _constraints(run: Run) -> dict[str, Any]:
    """Return the constraints that the summary names, else those of `recipe.yaml`."""
    import yaml

    found = run.summary.get("constraints")
    if not isinstance(found, Mapping):
        try:
            recipe = yaml.safe_load(run.recipe)
        except yaml.YAMLError:
            recipe = None
        found = recipe.get("constraints") if isinstance(recipe, Mapping) else None
    return {str(k): v for k, v in found.items() if v is not None} if isinstance(found, Mapping) else {}


def _tiles(baseline: Row, best: Row | None) -> list[dict[str, str]]:
    """Return the four numbers beneath the headline; none where no candidate beats the baseline."""
    if best is None:
        return []
    return [
        {
            "label": "Latency",
            "value": best.ratio,
            "note": f"{best.latency} from {baseline.latency}; 95 % interval {best.ratio_interval}",
            "verdict": best.verdict,
        },
        {
            "label": "Bytes",
            "value": best.bytes_ratio,
            "note": f"{best.bytes} from {baseline.bytes}",
            "verdict": "",
        },
        {
            "label": best.final.label,
            "value": best.final.value,
            "note": f"against {best.final.before}; 95 % interval {best.final.interval}",
            "verdict": best.final.verdict,
        },
        {"label": "MACs", "value": best.macs_ratio, "note": f"{best.macs} from {baseline.macs}", "verdict": ""},
    ]


def _layers(pairs: list[tuple[Mapping[str, Any], Row]], limits: Limits) -> list[dict[str, Any]]:
    """Return the layer tables of the candidates that changed any layer, the best first."""
    found = ((layers_of(candidate), row) for candidate, row in pairs)
    changed = ((layers, row) for layers, row in found if any(layer.changed for layer in layers))
    return [
        {
            "name": row.name,
            "layers": layers[: limits.layers],
            "more": max(len(layers) - limits.layers, 0),
            "open": index == 0,
        }
        for index, (layers, row) in enumerate(islice(changed, limits.layered))
    ]


def _curves(run: Run, limits: Limits) -> list[dict[str, Any]]:
    metric = run.summary["candidates"][0]["metric"]
    made = training_curves(run.events, metric, limits.samples)[-limits.curves :]
    made += beta_curves(run.events, limits.samples // 4)[-limits.betas :]
    made += removal_trees(run.events, limits.samples)[-limits.betas :]
    return [
        {"title": curves.title, "caption": curves.caption, "drawings": [Markup(d) for d in curves.drawings]}
        for curves in made
        if curves.drawings
    ]


def _detail(candidate: Mapping[str, Any], row: Row) -> dict[str, Any]:
    behaviour = candidate.get("behaviour")
    return {
        "row": row,
        "recipe": _recipe_text(candidate["recipe"])[:4000],
        "behaviour": behaviour_rows(behaviour) if isinstance(behaviour, Mapping) else [],
        "artifact": plain_text(candidate["artifact"]),
    }


def _recipe_text(recipe: Any) -> str:
    """Return a candidate's recipe in YAML, a line for each step; text stays as it is."""
    if not isinstance(recipe, Mapping):
        return "" if recipe is None else plain_text(recipe)
    lines = []
    for key, value in recipe.items():
        if key == "steps" and isinstance(value, list) and value:
            lines += [
                "steps:",
                *(f"  - {_flow(step)[1:-1] if isinstance(step, Mapping) else step}" for step in value),
            ]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    import yaml

    if isinstance(value, Mapping | list):
        return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9)).strip()
    return str(yaml.safe_dump([value], default_flow_style=True, width=10**9)).strip()[1:-1]
