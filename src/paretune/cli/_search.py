"""`paretune search`: run a study of hyperparameters, look at it, and take it along."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._exit import INFEASIBLE
from paretune.cli._flow import show_run
from paretune.cli._screen import Choice, Command, Screen, command
from paretune.cli._study import STUDY, asked_by, check, found_in, opened, replay, report, runs_of
from paretune.errors import nearest

if TYPE_CHECKING:
    from paretune.search import Result, Trial
    from paretune.search._study.driver import Driver
    from paretune.search._study.front import Found
    from paretune.search._study.goals import Goals


class _Group(click.Group):
    """The commands of a study; an unknown one is an error that names the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command 'search {args[0]}'.{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


STRICT = click.option("--strict", is_flag=True, help="Refuse an objective whose source has changed since.")
JOIN = click.option(
    "--join", is_flag=True, help="Lend the workers to the process that runs the study, where one does."
)


@command("run")
@STUDY
@click.option("--budget", help="Instead of the file's: a number of runs, or a time as 30min.")
@click.option("--workers", type=int, help="Instead of the file's: worker processes.")
@STRICT
@JOIN
def run(screen: Screen, study: Path, budget: str | None, workers: int | None, strict: bool, join: bool) -> int:
    """Run STUDY, a YAML file, until its budget is spent; a study that was begun before goes on.

    Where it searches over a recipe, the best is run at the end, confirmed on the test data and reported.

    Ctrl-C ends it when the runs under way are finished, a second one at once; what was finished is kept.
    """
    from paretune.report._study_progress import study_progress
    from paretune.search import minimize
    from paretune.search._study.limits import limits_of
    from paretune.tuning import RUNS, Candidate, run_best

    asked = asked_by(study)
    limits: Any = asked.limits if budget is None else limits_of(int(budget) if budget.isdigit() else budget)
    same = ("storage", "name", "seed", "timeout", "memory", "folder", "repeats")
    how: dict[str, Any] = {name: getattr(asked, name) for name in same} | asked.goals.to_json()
    how |= {"workers": asked.workers if workers is None else workers, "strict": strict, "join": join}
    recipe = asked.objective if isinstance(asked.objective, Candidate) else None
    if recipe is not None and asked.folder is not None:
        recipe.check(asked.sampler.budgets)
        how["folder"] = asked.folder / RUNS
    with study_progress(sys.stderr, quiet=screen.quiet) as listen:
        result = minimize(asked.objective, asked.space, asked.sampler, limits, listen=listen, **how)
    if recipe is None or asked.folder is None:
        _show(screen, result)
        return _code(result)
    folder, full = asked.folder, asked.sampler.budgets[-1]
    screen.say(f"{len(result.trials)} runs, ended by {result.ended}")
    return show_run(screen, folder, lambda emit: run_best(recipe, result, full, folder, emit))


@command("resume")
@click.argument("storage")
@click.argument("objective")
@click.option("--name", default="study", show_default=True, help="Of the study.")
@click.option("--budget", required=True, help="A number of runs in all, or a time as 30min.")
@click.option("--workers", type=int, default=1, show_default=True, help="Worker processes.")
@STRICT
@JOIN
def resume(
    screen: Screen, storage: str, objective: str, name: str, budget: str, workers: int, strict: bool, join: bool
) -> int:
    """Go on with a study that is in STORAGE (sqlite:///study.db), by OBJECTIVE (path/to/file.py:function) alone.

    Its space, method and seed are those that it was begun with.
    """
    from paretune.report._study_progress import study_progress
    from paretune.search import resume as go_on
    from paretune.search._study.file import Reference

    much: Any = int(budget) if budget.isdigit() else budget
    how: dict[str, Any] = {"name": name, "workers": workers, "strict": strict, "join": join}
    with study_progress(sys.stderr, quiet=screen.quiet) as listen:
        result = go_on(Reference(objective), storage, much, listen=listen, **how)
    _show(screen, result)
    return _code(result)


@command("status")
@STUDY
def status(screen: Screen, study: Path) -> None:
    """Show how far STUDY is: runs by budget, failures, the best so far, and who runs it. Nothing is changed."""
    from paretune.search._look.pace import seconds_left
    from paretune.search._study.goals import hidden

    asked, store = opened(study)
    trials, driver = store.read(), store.driver()
    found = found_in(asked, trials)
    budgets = sorted({trial.budget for trial in trials}, key=lambda budget: -1 if budget is None else budget)
    rows = [
        {
            "budget": budget,
            "finished": sum(t.budget == budget and t.loss is not None and not t.error for t in trials),
            "failed": sum(t.budget == budget and bool(t.error) for t in trials),
            "running": sum(t.budget == budget and t.loss is None for t in trials),
            "best": _lowest([trial for trial in trials if trial.budget == budget], found.goals),
        }
        for budget in budgets
    ]
    told = [replace(trial, values=hidden(trial.values)) for trial in found.front]
    near = found.nearest and replace(found.nearest, values=hidden(found.nearest.values))
    found = replace(found, front=tuple(told), nearest=near)
    left = None if driver is None else seconds_left(trials, asked.limits, asked.sampler.budgets)
    document = {"budgets": rows, "best": found.to_json(), "driver": _driver(driver), "seconds_left": left}
    tail = "not being run" if driver is None else f"being run by {driver}{_left(left)}"
    screen.show(document, lambda: f"{_status(rows)}\n\n{_best(found)}\n\n{tail}")


@command("best")
@STUDY
@click.option(
    "--format",
    "form",
    type=Choice(["text", "yaml"]),
    default="text",
    show_default=True,
    help="yaml: the configuration alone, to be pasted.",
)
def best(screen: Screen, study: Path, form: str) -> int:
    """Show the best configuration of STUDY; with several objectives all that no other one beats in each.

    Exit code 3 where no run holds the constraints.
    """
    import yaml

    *_, found = runs_of(study)
    text = _best(found)
    if form == "yaml" and found.best is not None:
        text = yaml.safe_dump(found.best.config, sort_keys=False)
    elif form == "yaml":  # what reads it would take the words for a configuration
        text = "".join(f"# {line}\n" for line in text.splitlines())
    screen.show(found.to_json(), text)
    return INFEASIBLE if found.nearest is not None else 0


@command("export")
@STUDY
@click.option(
    "--format", "form", type=Choice(["csv", "json"]), default="csv", show_default=True, help="What to write."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file; else it is printed.")
def export(screen: Screen, study: Path, form: str, out: Path | None) -> None:
    """Write every run of STUDY, one row each, as CSV or JSON."""
    import json

    from paretune.files import write_text

    asked, store = opened(study)
    rows = [trial.to_json() for trial in store.read()]
    text = json.dumps(rows, indent=2) if form == "json" else _csv(rows, asked.space.names)
    if out is not None:
        write_text(out, text)
    screen.show(
        {"runs": len(rows), "file": str(out)} if out else rows, f"{len(rows)} runs in {out}" if out else text
    )


search = _Group(
    "search",
    help="Search for hyperparameters: run a study that a YAML file describes, look at it, take it along.",
    commands={each.name or "": each for each in (run, resume, status, best, export, check, replay, report)},
    context_settings={"help_option_names": ["-h", "--help"]},
)
assert all(isinstance(each, Command) for each in search.commands.values())


def _code(result: Result) -> int:
    return INFEASIBLE if result.found.nearest is not None else 0


def _show(screen: Screen, result: Result) -> None:
    found = result.found
    document = {"best": found.to_json(), "runs": len(result.trials), "ended": result.ended}
    screen.show(document, lambda: f"{_best(found)}\n{len(result.trials)} runs, ended by {result.ended}")


def _driver(driver: Driver | None) -> dict[str, Any] | None:
    return driver and {"host": driver.host, "pid": driver.pid, "since": driver.since}


def _left(seconds: float | None) -> str:
    from paretune.report._display import duration

    return "" if seconds is None else f", about {duration(seconds)} left"


def _lowest(trials: Sequence[Trial], goals: Goals) -> float | None:
    ended = [trial for trial in trials if trial.loss is not None and not trial.error]
    losses = [trial.loss for trial in ended if trial.loss is not None and not goals.missed(trial)]
    return goals.signed(min(losses)) if losses else None


def _best(found: Found) -> str:
    trial = found.best or found.nearest
    if trial is None:
        return "no run was finished"
    if found.goals.several and found.front:
        return _front(found)
    at = "" if trial.budget is None else f" at budget {trial.budget}"
    name, value = found.goals.names[0], found.goals.values(trial)[0]
    error = "" if trial.stderr is None else f" +- {trial.stderr:.2g}"
    lines = [f"best: {name} {value:.6g}{error}{at} (run {trial.number})"]
    if found.nearest is not None:
        lines = [f"no run holds the constraints; nearest is run {trial.number}{at}: {found.missed}"]
    lines += [f"  {name}: {value}" for name, value in trial.config.items()]
    return "\n".join(lines + [f"  -> {name}: {value:.6g}" for name, value in trial.values.items()])


def _front(found: Found) -> str:
    """Return the front as a table: objectives, what else was returned, configuration."""
    goals = [name for name, _ in found.goals.objectives]
    values = list(dict.fromkeys(name for trial in found.front for name in trial.values if name not in goals))
    names = list(dict.fromkeys(name for trial in found.front for name in trial.config))
    cells = [("run", *goals, *values, *names)]
    for trial in found.front:
        numbers = [*found.goals.values(trial), *(trial.values.get(name, math.nan) for name in values)]
        texts = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        cells.append((str(trial.number), *texts, *(_cell(trial.config.get(name, "")) for name in names)))
    return "\n".join([f"front of {len(found.front)} runs, {', '.join(goals)}:", *_table(cells)])


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _status(rows: Sequence[dict[str, Any]]) -> str:
    cells = [("budget", "finished", "failed", "running", "best")]
    for row in rows:
        loss = "" if row["best"] is None else f"{row['best']:.6g}"
        budget = "full" if row["budget"] is None else str(row["budget"])
        cells.append((budget, str(row["finished"]), str(row["failed"]), str(row["running"]), loss))
    return "\n".join(_table(cells))


def _table(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table whose columns are aligned to the right."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]


def _csv(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    values = list(dict.fromkeys(name for row in rows for name in row["values"]))
    fields = [key for key in rows[0] if key not in ("config", "values")] if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fields, *names, *values])
    for row in rows:
        found = [row["config"].get(name, "") for name in names] + [row["values"].get(name, "") for name in values]
        writer.writerow([row[key] for key in fields] + found)
    return text.getvalue()
