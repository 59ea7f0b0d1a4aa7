"""What the commands that run something share: the folder, the display, Ctrl-C, and how the result is shown."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._exit import INFEASIBLE, Interrupted, colour_wanted

if TYPE_CHECKING:
    from paretune.cli._screen import Screen
    from paretune.result import Result

Listener = Callable[[str, dict[str, Any]], None]


def out_option() -> Callable[[Any], Any]:
    """Return the option `--out`."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="The run's folder, new or empty. [default: a free one, runs/NAME or runs/NAME-2, ...]",
    )


def cache_option() -> Callable[[Any], Any]:
    """Return the option `--no-cache`."""
    return click.option(
        "--no-cache",
        "cache",
        flag_value=False,
        default=True,
        type=bool,
        help="Compute every step, whatever earlier runs left in the cache.",
    )


def free_folder(name: str, under: Path = Path("runs")) -> Path:
    """Return `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, 100_000))
    return next(under / free for free in names if not (under / free).exists())


def show_run(screen: Screen, folder: Path, start: Callable[[Listener], Result]) -> int:
    """Run `start(listener)`, show what came out, and return the exit code.

    Ctrl-C is an `Interrupted` with the command that goes on with the run, once there is something to go on with.
    """
    try:
        with screen.progress() as progress:
            result = start(progress)
    except KeyboardInterrupt:
        begun = any((folder / name).is_file() for name in ("recipe.yaml", "optimize.json", "events.jsonl"))
        raise Interrupted(f"paretune run --resume {shlex.quote(str(folder))}" if begun else None) from None
    return show_result(screen, result)


def show_result(screen: Screen, result: Result) -> int:
    """Print the table of a run, its best candidate and its folder; 3 where constraints are not met."""
    screen.show({"folder": str(result.folder), **result.summary}, lambda: _text(result))
    if result.best is None and result.summary.get("constraints"):
        screen.say(f"infeasible: {result.summary.get('infeasible', 'no candidate holds the constraints')}")
        return INFEASIBLE
    return 0


def _text(result: Result) -> str:
    best = result.best
    lines = [table_text(result.summary).rstrip(), ""]
    lines.append("best    none" if best is None else f"best    {best.name}: {best.artifact}")
    report = result.folder / "report.html"
    return "\n".join([*lines, f"folder  {result.folder}", *([f"report  {report}"] if report.is_file() else [])])


def table_text(summary: dict[str, Any]) -> str:
    """Return the table of candidates, coloured where stdout is a terminal that wants colour."""
    from rich.console import Console

    from paretune.report import table, text

    if not colour_wanted(sys.stdout):
        return text(summary, summary.get("constraints"))
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=80).print(table(summary))
    return out.getvalue()
