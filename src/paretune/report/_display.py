"""What progress displays share: lines of text for a log, and a bar that is redrawn in place on a terminal.

A listener never breaks what it listens to.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Fields = Mapping[str, Any]
Clock = Callable[[], float]
BETWEEN_LINES = 15.0
"""Seconds between two lines that say nothing but how far it is."""


class Progress(Protocol):
    """Listens to events; a context manager around what they come from."""

    def __call__(self, kind: str, fields: Fields) -> None:
        """Take one event."""

    def __enter__(self) -> Progress:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display, whatever happened."""


class Silent:
    """Shows nothing."""

    def __call__(self, kind: str, fields: Fields) -> None:
        """Ignore the event."""

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


class Written(Silent):
    """Lines of text, each with the time since the start."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self.stream, self.clock, self.started = stream, clock, clock()

    def write(self, line: str, now: float) -> None:
        """Print a line."""
        self.stream.write(f"[{duration(now - self.started)}] {line}\n")
        self.stream.flush()


class Redrawn(ABC):
    """A bar that is redrawn in place, with lines above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console, self.clock, self.started = console, clock, clock()
        self._display: Any = None

    @abstractmethod
    def __call__(self, kind: str, fields: Fields) -> None:
        """Fold the event in; what must be known becomes a line above the bar."""

    @abstractmethod
    def render(self) -> RenderableType:
        """Return what is redrawn."""

    def write(self, line: str, now: float, style: str | None) -> None:
        """Print a line above the bar."""
        self.console.print(f"[{duration(now - self.started)}] {line}", style=style, markup=False, highlight=False)

    def __enter__(self) -> Self:
        """Begin to redraw."""
        from rich.live import Live

        self._display = Live(
            console=self.console,
            get_renderable=self.render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the bar and show the cursor again."""
        self._display.stop()


def display_for(
    stream: TextIO,
    *,
    quiet: bool,
    clock: Clock,
    written: Callable[[TextIO, Clock], Progress],
    redrawn: Callable[[Console, Clock], Progress],
) -> Progress:
    """Return the listener that suits a stream: nothing, lines, or a bar on a terminal."""
    if quiet:
        return Silent()
    if not stream.isatty():
        return written(stream, clock)
    from rich.console import Console

    return redrawn(Console(file=stream), clock)


def bar(subject: str, fraction: float | None, timing: str, beneath: str) -> RenderableType:
    """Return a bar with what it is about, its times, and a line beneath; it pulses where no fraction is known."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_row(
        Text(subject, style="bold"),
        ProgressBar(total=1.0, completed=fraction or 0.0, width=24, pulse=fraction is None),
        Text(timing, style="dim"),
    )
    return Group(row, Text("  " + beneath, style="cyan"))


def duration(seconds: float) -> str:
    """Return seconds as m:ss, or h:mm:ss.

    >>> duration(75), duration(3671.2)
    ('1:15', '1:01:11')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
