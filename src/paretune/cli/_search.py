"""`paretune search`: run a study of hyperparameters, look at it, and take it along."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._screen import Choice, Command, Screen, command
from paretune.cli._study import STUDY, check, opened, replay, report
from paretune.errors import nearest

if TYPE_CHECKING:
    from paretune.search import Result, Trial


class _Group(click.Group):
    """The commands of a study; an unknown one is an error that names the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command 'search {args[0]}'.{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@command("run")
@STUDY
@click.option("--budget", help="Instead of the file's: a number of runs, or a time as 30min.")
@click.option("--workers", type=int, help="Instead of the file's: worker processes.")
def run(screen: Screen, study: Path, budget: str | None, workers: int | None) -> None:
    """Run STUDY, a YAML file, until its budget is spent; a study that was begun before goes on.

    Ctrl-C ends it when the runs under way are finished, a second one at once; what was finished is kept.
    """
    from paretune.report._study_progress import study_progress
    from paretune.search import minimize
    from paretune.search._study.file import read_study
    from paretune.search._study.limits import limits_of

    asked = read_study(study)
    limits: Any = asked.limits if budget is None else limits_of(int(budget) if budget.isdigit() else budget)
    same = ("storage", "name", "seed", "timeout", "memory", "folder")
    how: dict[str, Any] = {name: getattr(asked, name) for name in same}
    how["workers"] = asked.workers if workers is None else workers
    with study_progress(sys.stderr, quiet=screen.quiet) as listen:
        result = minimize(asked.objective, asked.space, asked.sampler, limits, listen=listen, **how)
    _show(screen, result)


@command("resume")
@click.argument("storage")
@click.argument("objective")
@click.option("--name", default="study", show_default=True, help="Of the study.")
@click.option("--budget", required=True, help="A number of runs in all, or a time as 30min.")
@click.option("--workers", type=int, default=1, show_default=True, help="Worker processes.")
def resume(screen: Screen, storage: str, objective: str, name: str, budget: str, workers: int) -> None:
    """Go on with a study that is in STORAGE (sqlite:///study.db), by OBJECTIVE (path/to/file.py:function) alone.

    Its space, method and seed are those that it was begun with.
    """
    from paretune.report._study_progress import study_progress
    from paretune.search import resume as go_on
    from paretune.search._study.file import Reference

    much: Any = int(budget) if budget.isdigit() else budget
    with study_progress(sys.stderr, quiet=screen.quiet) as listen:
        result = go_on(Reference(objective), storage, much, name=name, workers=workers, listen=listen)
    _show(screen, result)


@command("status")
@STUDY
def status(screen: Screen, study: Path) -> None:
    """Show how far STUDY is: runs by budget, failures, the best so far. Nothing is changed."""
    from paretune.search._look.pace import seconds_left
    from paretune.search._study.storage import best_of

    asked, store = opened(study)
    trials = store.read()
    budgets = sorted({trial.budget for trial in trials}, key=lambda budget: -1 if budget is None else budget)
    rows = [
        {
            "budget": budget,
            "finished": sum(t.budget == budget and t.loss is not None and not t.error for t in trials),
            "failed": sum(t.budget == budget and bool(t.error) for t in trials),
            "running": sum(t.budget == budget and t.loss is None for t in trials),
            "best": _lowest([trial for trial in trials if trial.budget == budget]),
        }
        for budget in budgets
    ]
    best = best_of(trials)
    under_way = any(trial.loss is None for trial in trials)
    left = seconds_left(trials, asked.limits, asked.sampler.budgets) if under_way else None
    document = {"budgets": rows, "best": best and best.to_json(), "seconds_left": left}
    screen.show(document, lambda: _status(rows, best) + ("" if left is None else f"\n\n{_left(left)}"))


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
def best(screen: Screen, study: Path, form: str) -> None:
    """Show the best configuration of STUDY."""
    import yaml

    from paretune.search._study.storage import best_of

    found = best_of(opened(study)[1].read())
    text = _best(found)
    if form == "yaml" and found is not None:
        text = yaml.safe_dump(found.config, sort_keys=False)
    screen.show(found and found.to_json(), text)


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


def _show(screen: Screen, result: Result) -> None:
    best = result.best
    document = {"best": best and best.to_json(), "runs": len(result.trials), "ended": result.ended}
    screen.show(document, lambda: f"{_best(best)}\n{len(result.trials)} runs, ended by {result.ended}")


def _left(seconds: float) -> str:
    from paretune.report._progress import duration

    return f"about {duration(seconds)} left, if the study is being run"


def _lowest(trials: Sequence[Trial]) -> float | None:
    losses = [trial.loss for trial in trials if trial.loss is not None and not trial.error]
    return min(losses, default=None)


def _best(trial: Trial | None) -> str:
    if trial is None:
        return "no run was finished"
    at = "" if trial.budget is None else f" at budget {trial.budget}"
    lines = [f"best: loss {trial.loss:.6g}{at} (run {trial.number})"]
    lines += [f"  {name}: {value}" for name, value in trial.config.items()]
    return "\n".join(lines + [f"  -> {name}: {value:.6g}" for name, value in trial.values.items()])


def _status(rows: Sequence[dict[str, Any]], best: Trial | None) -> str:
    cells = [("budget", "finished", "failed", "running", "best")]
    for row in rows:
        loss = "" if row["best"] is None else f"{row['best']:.6g}"
        budget = "full" if row["budget"] is None else str(row["budget"])
        cells.append((budget, str(row["finished"]), str(row["failed"]), str(row["running"]), loss))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    table = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([*table, "", _best(best)])


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
