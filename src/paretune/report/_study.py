"""A study of hyperparameters for people: one self-contained page, as a run has one.

What it shows is plain values, which `paretune search report --json` prints; nothing is computed here but places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from paretune.report._format import milliseconds_text, plain_text, seconds_text
from paretune.report._study_charts import across, belief, best_so_far, objectives, rungs, suggested, times


def study_page(found: Mapping[str, Any]) -> str:
    """Return the page of what `paretune.search._look.story.story` tells."""
    from paretune.report._html import rendered

    parameters: Sequence[Mapping[str, Any]] = found["parameters"]
    shares = sorted(found["importances"].items(), key=lambda item: -item[1])
    told_at = found["told_at"]
    at = "" if told_at["budget"] is None else f" on budget {plain_text(told_at['budget'])}"
    (first, way), *others = found["objectives"]
    front = [run["number"] for run in found["front"]]
    return rendered(
        "study.html",
        name=found["name"],
        method=found["method"],
        headline=_headline(found),
        tiles=_tiles(found),
        best=_pairs(found["best"] or found["nearest"]),
        missed="" if found["nearest"] is None else found["nearest"]["missed"],
        objectives=[name for name, _ in found["objectives"]],
        constraints=found["constraints"],
        front=[_row(run, found["coordinates"]["parameters"]) for run in found["front"]],
        on_budget=_at(found["best"]),
        trade=Markup(objectives(found["points"], front, found["objectives"])) if others else "",
        first=first,
        most=way == "max",
        incumbent=[
            Markup(best_so_far(found["curves"], 1, "full runs", lambda value: f"{value:g}", first)),
            Markup(best_so_far(found["curves"], 2, "time at work", seconds_text, first)),
        ],
        rungs=Markup(rungs(found["rungs"], found["promotions"], first, least=way == "min")),
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
    best, runs = found["best"], f"{found['runs']:,} runs"
    if best is None:
        return f"{runs}, none of which {'succeeded' if found['nearest'] is None else 'holds the constraints'}"
    (first, way), *others = found["objectives"]
    if others:
        names = ", ".join(name for name, _ in found["objectives"])
        return f"{len(found['front'])} on the front of {names}{_at(best)}, in {runs}"
    value = next(iter(best["objectives"].values()))
    return f"{'Least' if way == 'min' else 'Most'} {first} {value:.5g}{_at(best)}, in {runs}"


def _at(best: Mapping[str, Any] | None) -> str:
    return "" if best is None or best["budget"] is None else f" on budget {plain_text(best['budget'])}"


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
        "objectives": [f"{value:.5g}" for value in trial["objectives"].values()],
        "missed": trial["missed"],
        "seconds": _took(trial["seconds"]),
        "origin": trial["origin"],
        "values": [plain_text(trial["config"].get(name)) for name in names],
    }


def _took(seconds: float) -> str:
    return milliseconds_text(1000 * seconds) if seconds < 1 else seconds_text(seconds)


def _exact(value: Any) -> str:
    """Return a value as it can be used again; plain_text rounds."""
    return repr(value) if isinstance(value, float) else plain_text(value)
