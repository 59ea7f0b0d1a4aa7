"""What every command shares: `--json`, `--quiet`, `--debug`, and a `Screen` that keeps their promises."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from paretune.errors import nearest

if TYPE_CHECKING:
    from paretune.report._display import Progress


class Screen:
    """Where a command shows its result: one JSON document on stdout, or text."""

    def __init__(self, *, json: bool, quiet: bool, stdout: TextIO) -> None:
        self.json = json
        self.quiet = quiet
        self._stdout = stdout

    def show(self, document: Any, text: str | Callable[[], str]) -> None:
        """Print the result: the document under `--json`, else the text."""
        if self.json:
            content = json.dumps(plain(document), indent=2, allow_nan=False)
        else:
            content = text if isinstance(text, str) else text()
        self._stdout.write(content.rstrip("\n") + "\n")
        self._stdout.flush()

    def say(self, text: str) -> None:
        """Print a remark on stderr, unless `--quiet`."""
        if not self.quiet:
            click.echo(text, err=True)

    def progress(self) -> Progress:
        """Return the listener that shows a run's events on stderr: nothing under `--quiet`."""
        from paretune.report._progress import progress_for

        return progress_for(sys.stderr, quiet=self.quiet)


class Command(click.Command):
    """A command whose options may also be written as recipes write them: `--weight_decay` for `--weight-decay`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        defaults = {"help_option_names": ["-h", "--help"], "token_normalize_func": _dashes}
        settings["context_settings"] = defaults | (settings.get("context_settings") or {})
        super().__init__(*args, **settings)


class Choice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A choice whose error names the nearest right value."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the chosen value, or fail with the nearest one."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            names = [str(choice) for choice in self.choices]
            self.fail(f"'{value}' is none of {', '.join(names)}.{nearest(str(value), names)}", param, ctx)


def command(name: str, **settings: Any) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function `(screen, **options) -> exit code or None`, with the shared options."""

    def wrap(function: Callable[..., int | None]) -> Command:
        @functools.wraps(function)
        def run(*, json: bool, quiet: bool, debug: bool, **options: Any) -> int | None:
            with screen(json=json, quiet=quiet) as shown:
                return function(shown, **options)

        made = click.command(name, cls=Command, **settings)(run)
        made.params += shared_options()
        return made

    return wrap


def shared_options() -> list[click.Parameter]:
    """Return the options that every command has."""
    return [
        click.Option(["--json"], is_flag=True, help="Print one JSON document, and nothing else, on stdout."),
        click.Option(["--quiet", "-q"], is_flag=True, help="Show no progress and no remarks."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


@contextlib.contextmanager
def screen(*, json: bool, quiet: bool) -> Iterator[Screen]:
    """Give a Screen; under `--json` whatever else writes to stdout (the user's task, a library) goes to stderr."""
    if not json:
        yield Screen(json=False, quiet=quiet, stdout=sys.stdout)
        return
    with _private_stdout() as stdout:
        yield Screen(json=True, quiet=quiet, stdout=stdout)


@contextlib.contextmanager
def _private_stdout() -> Iterator[TextIO]:
    """Keep stdout to ourselves: Python's prints, C libraries and child processes write to stderr meanwhile."""
    original = sys.stdout
    original.flush()
    if original is not sys.__stdout__:  # a test's buffer, no file of the process
        with contextlib.redirect_stdout(sys.stderr):
            yield original
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout, contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def plain(value: Any) -> Any:
    """Return plain JSON values: paths as text, dataclasses and arrays unfolded, NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(value.to_json() if hasattr(value, "to_json") else dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return getattr(value, "__name__", None) or str(value)


def _dashes(name: str) -> str:
    return name.replace("_", "-")
