"""`paretune search check`, `replay` and `report`: what can be said of a study before it begins, and afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._exit import UNVERIFIED
from paretune.cli._screen import Screen, command

if TYPE_CHECKING:
    from paretune.search import Replay, Trial
    from paretune.search._study.advice import Advice
    from paretune.search._study.file import StudyFile
    from paretune.search._study.front import Found
    from paretune.search._study.storage import Store

STUDY = click.argument("study", type=click.Path(path_type=Path, dir_okay=False))
SHOWN = 10
"""Differences that are printed; `--json` has all."""


def opened(path: Path) -> tuple[StudyFile, Store]:
    """Return what a study's file says, and its storage; one that was not begun yet is an InputError."""
    from paretune.search._study.auto import settled
    from paretune.search._study.definition import plan_to_json
    from paretune.search._study.storage import Store

    asked = asked_by(path)
    space = settled(asked.space, asked.storage, asked.name, lambda kind, fields: None)
    plan = plan_to_json(space, asked.sampler, asked.seed, asked.goals, asked.repeats, asked.objective)
    return asked, Store(asked.storage, asked.name, plan, resume=True)


def asked_by(path: Path) -> StudyFile:
    """Return what a study's file says, a recipe with open values among it."""
    from paretune.search._study.file import read_study
    from paretune.tuning import candidate_of

    return read_study(path, candidate_of)


def runs_of(path: Path) -> tuple[StudyFile, list[Trial], Found]:
    """Return what a study's file says, all its runs, and what it found."""
    asked, store = opened(path)
    trials = store.read()
    return asked, trials, found_in(asked, trials)


def found_in(asked: StudyFile, trials: list[Trial]) -> Found:
    """Return what a study found in its runs."""
    from paretune.search._study.front import found_by

    return found_by(trials, asked.goals, asked.repeats, len(asked.sampler.budgets) - 1)


@command("replay")
@STUDY
def replay(screen: Screen, study: Path) -> int:
    """Make every suggestion of STUDY again from what is stored, and compare. Nothing is run or changed.

    Exit code 0 where all come out as they are stored, bit for bit, else 4.
    """
    from paretune.search import replay as again

    asked = asked_by(study)
    found = again(asked.storage, name=asked.name, method=asked.sampler)
    document = {"suggestions": found.suggestions, "same": found.same, "differences": found.differences}
    screen.show(document, lambda: _told(found))
    return 0 if found.same else UNVERIFIED


@command("report")
@STUDY
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: STUDY's name .html beside it]"
)
def report(screen: Screen, study: Path, out: Path | None) -> None:
    """Write the page of STUDY: how it went, and what was found; one HTML file that opens offline.

    --json prints what the page draws.
    """
    from paretune.files import write_text
    from paretune.report import study_page
    from paretune.search._look.story import story

    asked, trials, found = runs_of(study)
    budgets, method = asked.sampler.budgets, asked.sampler.name
    told = story(asked.space, trials, budgets, name=asked.name, method=method, found=found, repeats=asked.repeats)
    path = study.with_suffix(".html") if out is None else out
    write_text(path, study_page(told))
    screen.show({"report": path, "bytes": path.stat().st_size, **told}, str(path))


@command("check")
@STUDY
@click.option("--run-seconds", metavar="TIME", help="What a run on the full budget takes, as 30s or 5min.")
def check(screen: Screen, study: Path, run_seconds: str | None) -> None:
    """Check STUDY: its keys, its space, its objective; show the plan, and which method would suit, and why.

    Nothing is started. With --run-seconds, budgets in time are told in runs.
    """
    from paretune.search._study.advice import advise, brackets_of, full_runs
    from paretune.search._study.definition import method_to_json
    from paretune.search._study.limits import seconds
    from paretune.search._study.objective import arity
    from paretune.search._study.plan import expected_runs
    from paretune.search.samplers import Grid
    from paretune.tuning import Candidate

    asked = asked_by(study)
    arity(asked.objective)
    if isinstance(asked.objective, Candidate):
        asked.objective.check(asked.sampler.budgets)
    count, budgets = asked.space.count, asked.sampler.budgets
    takes = None if run_seconds is None else seconds(run_seconds, "--run-seconds")
    limits = asked.limits
    if isinstance(asked.sampler, Grid):
        points = len(asked.sampler.grid(asked.space)) * asked.repeats
        limits = replace(limits, trials=min(points, limits.trials or points))
    plan = expected_runs(asked.sampler, limits, asked.workers, takes, asked.repeats)
    expected = None if plan["runs"] is None else [row["runs"] for row in plan["rungs"]]
    full = None if expected is None else full_runs(expected, budgets)
    advice = advise(count, budgets, full, takes)
    document = {
        "name": asked.name,
        "parameters": len(asked.space),
        "configurations": None if math.isinf(count) else count,
        "method": method_to_json(asked.sampler),
        "budgets": budgets,
        "brackets": [
            {"budgets": [budgets[rung] for rung in bracket.rungs], "sizes": bracket.sizes}
            for bracket in brackets_of(asked.sampler, asked.workers)
        ],
        "expected": expected and dict(zip(map(str, budgets), expected, strict=True)),
        "full_runs": full,
        "seconds": plan["seconds"],
        "recommended": advice,
        "storage": asked.storage,
    }
    screen.show(document, lambda: _checked(asked, document, advice))


def _checked(asked: StudyFile, document: Mapping[str, Any], advice: Advice) -> str:
    count = document["configurations"]
    many = "infinitely many" if count is None else f"at most {count:,.0f}"
    ladder = ", ".join(str(budget) for budget in asked.sampler.budgets if budget is not None)
    lines = [
        f"{asked.name}: {len(asked.space)} parameters, {many} configurations",
        f"method {asked.sampler.name}" + (f", budgets {ladder}" if ladder else ""),
    ]
    for bracket in document["brackets"]:
        steps = zip(bracket["sizes"], bracket["budgets"], strict=True)
        lines.append("  bracket " + ", ".join(f"{size} at {budget}" for size, budget in steps))
    if document["expected"] is None:
        lines.append("runs cannot be told from a time alone; give --run-seconds")
    else:
        at = ", ".join(f"{runs} at {budget}" for budget, runs in document["expected"].items())
        runs = f"about {at}, or {document['full_runs']:.1f} full runs" if ladder else f"about {at.split()[0]} runs"
        lines.append(f"{runs}, with {asked.workers} worker{'s' if asked.workers > 1 else ''}")
    same = ", as it says" if advice.method == asked.sampler.name else ""
    return "\n".join([*lines, f"recommended {advice.method}{same}: {advice.reason}", f"storage {asked.storage}"])


def _told(found: Replay) -> str:
    if found.same:
        return f"all {found.suggestions} suggestions came out again, bit for bit"
    lines = [f"{len(found.differences)} differences in {found.suggestions} suggestions"]
    for each in found.differences[:SHOWN]:
        lines += [f"configuration {each.number} (run {each.run}): {each.why}", f"  stored    {each.stored!r}"]
        lines += [] if each.replayed is None else [f"  replayed  {each.replayed!r}"]
    left = len(found.differences) - SHOWN
    return "\n".join([*lines, *([f"and {left} more; --json lists them"] if left > 0 else [])])
