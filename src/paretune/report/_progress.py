"""What a run shows while it works: a live display on a terminal, lines of text elsewhere, nothing under `--quiet`.

`Seen` folds a run's events into what is known so far and has no clock and no screen; `Lines` and `Live` print
it. A listener never breaks a run: a field that an event lacks is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from paretune.report._display import (
    BETWEEN_LINES,
    Clock,
    Fields,
    Progress,
    Redrawn,
    Written,
    bar,
    display_for,
    duration,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def progress_for(stream: TextIO, *, quiet: bool, clock: Clock = time.monotonic) -> Progress:
    """Return the listener that suits a stream."""
    return display_for(stream, quiet=quiet, clock=clock, written=Lines, redrawn=Live)


@dataclass
class Seen:
    """What is known of a run from its events so far; times are in seconds of the caller's clock."""

    started: float
    now: float = 0.0
    name: str = ""
    step: str = ""
    index: int = 0
    count: int = 0
    epoch: int = 0
    """The epoch under way, from 1; 0 where the step has none."""
    epochs: int = 0
    done: int = 0
    """Batches of the epoch, or rounds of the measurement, that are done."""
    total: int = 0
    loss: float | None = None
    metric: str = ""
    value: float | None = None
    best: float | None = None
    measuring: str = ""
    """What is being measured; empty while a step works."""
    leader: str = ""
    """The fastest candidate so far that is faster than the baseline, in words."""
    fastest: float = 1.0
    """Its latency, as a ratio to the baseline's."""
    first: tuple[float, float] | None = field(default=None, repr=False)
    """(time, fraction done) at the first progress of the step under way: a resumed step begins in the middle."""

    def take(self, kind: str, fields: Fields, now: float) -> None:
        """Fold one event in."""
        self.now = now
        if kind == "run_started":
            self.name, self.count = str(fields.get("name", "")), _length(fields.get("steps"))
        elif kind == "step_started":
            self._begin(str(fields.get("step", "")))
            self.index, self.count = int(fields.get("index", 0)) + 1, int(fields.get("count", self.count))
        elif kind in ("batch", "epoch"):
            self._train(kind, fields)
        elif kind == "measuring":
            what = str(fields.get("what", "") or "the candidate")
            if what != self.measuring:
                self._begin(self.step)
                self.measuring = what
            self.done, self.total = fields.get("done", 0), fields.get("total", 0)
        elif kind == "candidate":
            self._lead(fields)
        self._note_start()

    @property
    def subject(self) -> tuple[int, str, str]:
        """What is being worked on: another one is worth a line at once."""
        return self.index, self.step, self.measuring

    def fraction(self) -> float | None:
        """Return how much of the step or measurement under way is done, in [0, 1], or None if unknown."""
        batches = self.done / self.total if self.total else 0.0
        if self.measuring:
            return batches if self.total else None
        return min((self.epoch - 1 + batches) / self.epochs, 1.0) if self.epochs and self.epoch else None

    def left(self) -> float | None:
        """Return the seconds that the step under way still needs at the pace seen, or None if unknown."""
        fraction = self.fraction()
        if self.first is None or fraction is None or fraction <= self.first[1]:
            return None
        return (self.now - self.first[0]) * (1.0 - fraction) / (fraction - self.first[1])

    def _lead(self, fields: Fields) -> None:
        self.measuring = ""
        ratio = _row(fields).get("latency", {}).get("ratio", 1.0)
        if ratio < self.fastest:
            self.fastest, self.leader = ratio, f"fastest so far {candidate(fields)}"

    def _begin(self, step: str) -> None:
        self.step, self.measuring = step, ""
        self.epoch = self.epochs = self.done = self.total = 0
        self.loss = self.value = self.best = self.first = None

    def _train(self, kind: str, fields: Fields) -> None:
        self.measuring = ""
        self.epoch, self.epochs = fields.get("epoch", self.epoch), fields.get("epochs", self.epochs)
        self.loss = fields.get("loss", self.loss)
        if kind == "batch":
            self.done, self.total = fields.get("done", 0), fields.get("total", 0)
            return
        self.done = self.total = 1
        self.metric, self.value = str(fields.get("metric", self.metric)), fields.get("value", self.value)
        self.best = fields.get("best", self.best)

    def _note_start(self) -> None:
        fraction = self.fraction()
        if self.first is None and fraction is not None:
            self.first = (self.now, fraction)


class Lines(Written):
    """Plain lines for a log: one per step, epoch, candidate and warning, each with the time since the start."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        super().__init__(stream, clock)
        self.seen = Seen(started=self.started, now=self.started)
        self._last: tuple[float, object] = (float("-inf"), None)

    def __call__(self, kind: str, fields: Fields) -> None:
        """Print the event's line, if it has one and is not one of too many."""
        now = self.clock()
        self.seen.take(kind, fields, now)
        line = describe(kind, fields, self.seen)
        last, subject = self._last
        again = kind in ("batch", "measuring") and subject == self.seen.subject and now - last < BETWEEN_LINES
        if line is None or again:
            return
        self._last = (now, self.seen.subject)
        self.write(line, now)


class Live(Redrawn):
    """A bar that is redrawn in place, with what is finished in lines above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self.seen = Seen(started=self.started, now=self.started)

    def __call__(self, kind: str, fields: Fields) -> None:
        """Fold the event in; what is finished or must be known becomes a line above the bar."""
        self.seen.take(kind, fields, self.clock())
        if kind in ("batch", "epoch", "measuring", "step_started"):
            return
        line = describe(kind, fields, self.seen)
        if line is not None:
            style = {"warning": "yellow", "note": "dim", "candidate": "bold"}.get(kind)
            self.write(line, self.seen.now, style)

    def render(self) -> RenderableType:
        """Return the bar: step, epoch, what is seen, time gone and left."""
        seen = self.seen
        seen.now = self.clock()
        return bar(headline(seen), seen.fraction(), timing(seen), state(seen))


def describe(kind: str, fields: Fields, seen: Seen) -> str | None:
    """Return the line of an event, or None where it has none."""
    if kind == "run_started":
        return f"run {seen.name}: {seen.count} steps" if seen.count else f"run {seen.name}"
    if kind == "step_started":
        return headline(seen)
    if kind in ("batch", "epoch", "measuring"):
        left = seen.left()
        parts = [headline(seen), state(seen), f"about {duration(left)} left" if left else ""]
        return ", ".join(part for part in parts if part)
    if kind == "step_finished":
        how = "taken from the cache" if fields.get("cached") else f"done in {duration(fields.get('seconds', 0.0))}"
        return f"{fields.get('step', seen.step)}: {how}"
    if kind == "candidate":
        return candidate(fields)
    if kind == "warning":
        return f"warning: {fields.get('text', '')}"
    if kind == "note":
        return f"note: {fields.get('text', '')}"
    return None


def headline(seen: Seen) -> str:
    """Return what is being done: `step 2 of 4, distill, epoch 3 of 8`."""
    if seen.measuring:
        return f"measuring {seen.measuring}" + (f", {seen.done} of {seen.total}" if seen.total else "")
    place = f"step {seen.index} of {seen.count}, " if 0 < seen.index <= seen.count else ""
    epoch = f", epoch {seen.epoch} of {seen.epochs}" if seen.epoch and seen.epochs else ""
    return f"{place}{seen.step or 'starting'}{epoch}"


def state(seen: Seen) -> str:
    """Return the numbers seen: loss, metric, the best so far."""
    parts = [f"loss {seen.loss:.4g}"] if seen.loss is not None else []
    if seen.value is not None:
        parts.append(f"{seen.metric or 'metric'} {seen.value:.4g}")
    if seen.best is not None:
        parts.append(f"best so far {seen.best:.4g}")
    return ", ".join([*parts, seen.leader] if seen.leader else parts)


def timing(seen: Seen) -> str:
    """Return the time gone in the run, and about how much the step under way still needs."""
    left = seen.left()
    return f"{duration(seen.now - seen.started)} elapsed" + (f", about {duration(left)} left" if left else "")


def candidate(fields: Fields) -> str:
    """Return a candidate in words: its name, metric, latency ratio and bytes, as far as they are known."""
    row = _row(fields)
    metric, latency = row.get("metric") or {}, row.get("latency") or {}
    parts = [f"{metric.get('name')} {metric['value']:.4g}"] if "value" in metric else []
    parts += [f"{latency['ratio']:.2f}x latency"] if "ratio" in latency else []
    parts += [f"{row['bytes'] / 1000:,.0f} KB"] if "bytes" in row else []
    return f"{fields.get('name', 'candidate')}: {', '.join(parts)}"


def _row(fields: Fields) -> Fields:
    row = fields.get("row")
    return row if isinstance(row, Mapping) else {}


def _length(steps: Any) -> int:
    return steps if isinstance(steps, int) else len(steps) if steps is not None else 0
