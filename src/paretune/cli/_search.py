"""`paretune search`: run a study of hyperparameters, look at it, and take it along."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._screen import Choice, Command, Screen, command
from paretune.errors import nearest

if TYPE_CHECKING:
    from paretune.search import Result, Trial
    from paretune.search._study.file import StudyFile
    from paretune.search._study.storage import Store

STUDY = click.argument("study", type=click.Path(path_type=Path, dir_okay=False))


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
def run(screen: Screen, study: Path, budget: str | None, workers: int | None, strict: bool, join: bool) -> None:
    """Run STUDY, a YAML file, until its budget is spent; a study that was begun before goes on.

    Ctrl-C ends it when the runs under way are finished, a second one at once; what was finished is kept.
    """
    from paretune.search import minimize
    from paretune.search._study.file import read_study
    from paretune.search._study.limits import limits_of

    asked = read_study(study)
    limits: Any = asked.limits if budget is None else limits_of(int(budget) if budget.isdigit() else budget)
    listen = _Progress(screen)
    same = ("storage", "name", "seed", "timeout", "memory", "folder")
    how: dict[str, Any] = {name: getattr(asked, name) for name in same}
    how |= {"workers": asked.workers if workers is None else workers, "strict": strict, "join": join}
    result = minimize(asked.objective, asked.space, asked.sampler, limits, listen=listen, **how)
    _show(screen, result)


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
) -> None:
    """Go on with a study that is in STORAGE (sqlite:///study.db), by OBJECTIVE (path/to/file.py:function) alone.

    Its space, method and seed are those that it was begun with.
    """
    from paretune.search import resume as go_on
    from paretune.search._study.file import Reference

    much: Any = int(budget) if budget.isdigit() else budget
    how: dict[str, Any] = {"name": name, "workers": workers, "strict": strict, "join": join}
    result = go_on(Reference(objective), storage, much, listen=_Progress(screen), **how)
    _show(screen, result)


@command("status")
@STUDY
def status(screen: Screen, study: Path) -> None:
    """Show how far STUDY is: runs by budget, failures, the best so far. Nothing is changed."""
    from paretune.search._study.storage import best_of

    trials = _read(study)[1].read()
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
    screen.show({"budgets": rows, "best": best and best.to_json()}, lambda: _status(rows, best))


@command("best")
@STUDY
def best(screen: Screen, study: Path) -> None:
    """Show the best configuration of STUDY."""
    from paretune.search._study.storage import best_of

    found = best_of(_read(study)[1].read())
    screen.show(found and found.to_json(), lambda: _best(found))


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

    asked, store = _read(study)
    rows = [trial.to_json() for trial in store.read()]
    text = json.dumps(rows, indent=2) if form == "json" else _csv(rows, asked.space.names)
    if out is not None:
        write_text(out, text)
    screen.show(
        {"runs": len(rows), "file": str(out)} if out else rows, f"{len(rows)} runs in {out}" if out else text
    )


@command("check")
@STUDY
def check(screen: Screen, study: Path) -> None:
    """Check STUDY: its keys, its space, its objective; show what would be run. Nothing is started."""
    from paretune.search._study.file import read_study
    from paretune.search._study.objective import arity
    from paretune.search._study.study import method_to_json

    asked = read_study(study)
    arity(asked.objective)
    count = asked.space.count
    document = {
        "name": asked.name,
        "parameters": len(asked.space),
        "configurations": None if math.isinf(count) else count,
        "method": method_to_json(asked.sampler),
        "budgets": asked.sampler.budgets,
        "storage": asked.storage,
    }
    many = "infinitely many" if math.isinf(count) else f"at most {count:,.0f}"
    ladder = ", ".join(str(budget) for budget in asked.sampler.budgets if budget is not None)
    lines = [
        f"{asked.name}: {len(asked.space)} parameters, {many} configurations",
        f"method {asked.sampler.name}" + (f", budgets {ladder}" if ladder else ""),
        f"storage {asked.storage}",
    ]
    screen.show(document, "\n".join(lines))


search = _Group(
    "search",
    help="Search for hyperparameters: run a study that a YAML file describes, look at it, take it along.",
    commands={each.name or "": each for each in (run, resume, status, best, export, check)},
    context_settings={"help_option_names": ["-h", "--help"]},
)
assert all(isinstance(each, Command) for each in search.commands.values())


class _Progress:
    """Tells every new best run, and now and then how many there were."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._began, self._told = screen, time.monotonic(), 0.0
        self._runs, self._best = 0, (-1, math.inf)

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Listen to a run."""
        if kind in ("space", "warning"):
            self._screen.say(fields["text"])
        if kind != "run":
            return
        self._runs += 1
        took = time.monotonic() - self._began
        loss = math.inf if fields["loss"] is None else fields["loss"]
        if fields["rung"] > self._best[0] or (fields["rung"] == self._best[0] and loss < self._best[1]):
            self._best = (fields["rung"], loss)
            at = "" if fields["budget"] is None else f" at budget {fields['budget']}"
            self._screen.say(f"[{took:.0f} s] run {fields['number']}: {loss:.6g}{at}, the best so far")
        elif fields["error"]:
            self._screen.say(f"[{took:.0f} s] run {fields['number']} failed: {fields['error']}")
        elif took - self._told > 10:
            self._told = took
            self._screen.say(f"[{took:.0f} s] {self._runs} runs")


def _read(path: Path) -> tuple[StudyFile, Store]:
    from paretune.search._study.file import read_study
    from paretune.search._study.storage import Store
    from paretune.search._study.study import plan_to_json

    asked = read_study(path)
    plan = plan_to_json(asked.space, asked.sampler, asked.seed)
    return asked, Store(asked.storage, asked.name, plan, resume=True)


def _show(screen: Screen, result: Result) -> None:
    best = result.best
    document = {"best": best and best.to_json(), "runs": len(result.trials), "ended": result.ended}
    screen.show(document, lambda: f"{_best(best)}\n{len(result.trials)} runs, ended by {result.ended}")


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
