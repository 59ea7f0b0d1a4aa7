"""What a command's end means: its exit code, and what the user reads when it went wrong.

0 done, 1 internal error, 2 bad input, 3 infeasible, 4 verification failed, 5 run failed, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from paretune.errors import ParetuneError, nearest

INTERNAL, BAD_INPUT, INFEASIBLE, UNVERIFIED, RUN_FAILED, INTERRUPTED = 1, 2, 3, 4, 5, 130


class Interrupted(ParetuneError):
    """Ctrl-C or a termination signal; what was finished is kept, and the message says how to go on."""

    exit_code = INTERRUPTED

    def __init__(self, resume: str | None = None) -> None:
        super().__init__("interrupted" + (f"; continue with\n  {resume}" if resume else ""))
        self.resume = resume


@dataclass(frozen=True)
class Failure:
    """An error as the user sees it."""

    type: str
    message: str
    exit_code: int
    resume: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints in place of a result."""
        content: dict[str, Any] = {"type": self.type, "message": self.message, "exit_code": self.exit_code}
        return {"error": content if self.resume is None else {**content, "resume": self.resume}}


def guarded(run: Callable[[], Any], args: Sequence[str]) -> int:
    """Run a command, say what went wrong if something did, and return the exit code."""
    try:
        return int(run() or 0)
    except SystemExit:
        raise
    except BaseException as error:
        failure = describe(error)
        if _asks_for("--debug", args):
            traceback.print_exception(error, file=sys.stderr)
        if _asks_for("--json", args):
            click.echo(json.dumps(failure.to_json(), indent=2))
        else:
            _print(failure)
        return failure.exit_code


def describe(error: BaseException) -> Failure:
    """Turn whatever a command raised into a message and an exit code."""
    name = type(error).__name__
    if isinstance(error, ParetuneError):
        return Failure(name, str(error), error.exit_code, getattr(error, "resume", None))
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "paretune"
        return Failure(name, f"{_usage(error)}\nSee `{where} --help`.", BAD_INPUT)
    if isinstance(error, click.ClickException):
        return Failure(name, error.format_message(), BAD_INPUT)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure("Interrupted", "interrupted", INTERRUPTED)
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        advice = "out of memory; use a smaller batch_size in the task, or a machine with more memory"
        return Failure(name, f"{advice} ({_first_line(error)})", RUN_FAILED)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO):
        return Failure(name, f"{error}; free some space, or choose another folder with --out", RUN_FAILED)
    return Failure(name, f"internal error: {name}: {_first_line(error)}; run again with --debug", INTERNAL)


def interrupt_on_termination() -> None:
    """Make SIGTERM end a command as Ctrl-C does: what was finished is kept, and the exit code is 130."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def colour_wanted(stream: Any) -> bool:
    """Whether to colour what goes to a stream: a terminal, and NO_COLOR neither set nor TERM dumb."""
    return bool(stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def _print(failure: Failure) -> None:
    label = "stopped: " if failure.exit_code == INTERRUPTED else "error: "
    if colour_wanted(sys.stderr):
        label = click.style(label, fg="yellow" if failure.exit_code == INTERRUPTED else "red", bold=True)
    click.echo(label + failure.message, err=True)


def _usage(error: click.UsageError) -> str:
    """Return click's message, an unknown option with the one that is nearest."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message()
    known = [
        flag for param in error.ctx.command.get_params(error.ctx) for flag in param.opts + param.secondary_opts
    ]
    return f"no option '{error.option_name}'.{nearest(error.option_name, known)}"


def _asks_for(flag: str, args: Sequence[str]) -> bool:
    """Whether a flag stands on the command line, which may have failed to parse."""
    return flag in (args[: args.index("--")] if "--" in args else args)


def _is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's own class for accelerators, and its RuntimeError where the CPU's allocator gives up."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
