"""A study of hyperparameters for people: one self-contained page, as a run has one.

What it shows is plain values, which `paretune search report --json` prints; nothing is computed here but places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from paretune.report._format import milliseconds_text, plain_text, seconds_text
from paretune.report._study_charts import across, belief, best_so_far, rungs, suggested, times


def study_page(found: Mapping[str, Any]) -> str:
    """Return the page of what `paretune.search._look.story.story` tells."""
    from paretune.report._html import rendered

    parameters: Sequence[Mapping[str, Any]] = found["parameters"]
    shares = sorted(found["importances"].items(), key=lambda item: -item[1])
    told_at = found["told_at"]
    at = "" if told_at["budget"] is None else f" on budget {plain_text(told_at['budget'])}"
    return rendered(
        "study.html",
        name=found["name"],
        method=found["method"],
        headline=_headline(found),
        tiles=_tiles(found),
        best=_pairs(found["best"]),
        incumbent=[
            Markup(best_so_far(found["curves"], 1, "full runs", lambda value: f"{value:g}")),
            Markup(best_so_far(found["curves"], 2, "time at work", seconds_text)),
        ],
        rungs=Markup(rungs(found["rungs"], found["promotions"])) if found["rungs"] else "",
        across=Markup(across(found["coordinates"], parameters)),
        importances=[(name, f"{100 * share:.0f} %", f"{100 * share:.0f}") for name, share in shares],
        told_at=f"{told_at['runs']} runs{at}",
        beliefs=[Markup(belief(parameter)) for parameter in parameters],
        suggested=[Markup(suggested(parameter)) for parameter in parameters],
        times=Markup(times(found["seconds"])),
        names=found["coordinates"]["parameters"],
        table=[_row(trial, found["coordinates"]["parameters"]) for trial in found["table"]],
        failures=found["failures"],
        notes=found["notes"],
    )


def _headline(found: Mapping[str, Any]) -> str:
    best = found["best"]
    if best is None:
        return f"{found['runs']:,} runs, none of which succeeded"
    at = "" if best["budget"] is None else f" on budget {plain_text(best['budget'])}"
    return f"Least loss {best['loss']:.5g}{at}, in {found['runs']:,} runs"


def _tiles(found: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = [
        ("Finished", f"{found['finished']:,}", f"of {found['runs']:,} runs, {found['running']:,} under way"),
        ("Failed", f"{found['failed']:,}", f"and {found['lost']:,} lost with their process"),
        ("Work", _took(found["work"]), "added up over workers"),
    ]
    return [{"label": label, "value": value, "note": note} for label, value, note in tiles]


def _pairs(best: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return the best configuration, and what else its run returned."""
    if best is None:
        return []
    told = [(name, plain_text(value)) for name, value in best["values"].items()]
    return [(name, _exact(value)) for name, value in best["config"].items()] + told


def _row(trial: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        "run": trial["number"],
        "budget": "full" if trial["budget"] is None else plain_text(trial["budget"]),
        "loss": f"{trial['loss']:.5g}",
        "seconds": _took(trial["seconds"]),
        "origin": trial["origin"],
        "values": [plain_text(trial["config"].get(name)) for name in names],
    }


def _took(seconds: float) -> str:
    return milliseconds_text(1000 * seconds) if seconds < 1 else seconds_text(seconds)


def _exact(value: Any) -> str:
    """Return a value as it can be used again; plain_text rounds."""
    return repr(value) if isinstance(value, float) else plain_text(value)
