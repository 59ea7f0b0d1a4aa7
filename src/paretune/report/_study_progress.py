"""What a study shows while it works: a bar that is redrawn in place on a terminal, lines of text elsewhere.

`Tally` folds a study's events into what is known so far, and has no clock and no screen. A listener never breaks a
study: a field that an event lacks is left out.
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
from paretune.report._format import is_number, plain_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LONGEST = 96
"""Characters of a configuration in one line."""
COUNTED = ("trials", "runs", "work")
"""Limits that are reached by runs, not by the clock."""


def study_progress(stream: TextIO, *, quiet: bool, clock: Clock = time.monotonic) -> Progress:
    """Return the listener that suits a stream."""
    return display_for(stream, quiet=quiet, clock=clock, written=StudyLines, redrawn=StudyLive)


@dataclass
class Tally:
    """What is known of a study from its events so far; times are in seconds of the caller's clock."""

    started: float
    now: float = 0.0
    limits: dict[str, float] = field(default_factory=dict)
    """What ends the study, in trials, full runs, seconds of wall time and of work; only those there are."""
    top: float | None = None
    """The largest budget."""
    workers: int = 1
    before: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0.0))
    """What earlier processes did."""
    done: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0.0))
    """What runs of this one did that ended."""
    busy: set[int] = field(default_factory=set)
    """Runs under way."""
    failed: int = 0
    best: Mapping[str, Any] | None = None
    """The run of the least loss on the largest budget so far."""

    def take(self, kind: str, fields: Fields, now: float) -> None:
        """Fold one event in."""
        self.now = now
        if kind == "begin":
            limits, budgets = fields.get("limits", {}), fields.get("budgets") or [None]
            self.limits = {name: float(limit) for name, limit in limits.items() if is_number(limit)}
            self.top, self.workers = budgets[-1], fields.get("workers", 1)
            self.before |= {name: float(value) for name, value in fields.get("spent", {}).items()}
            self.failed, self.best = fields.get("failed", 0), fields.get("best")
        elif kind == "start":
            self.busy.add(fields.get("number", -1))
        elif kind == "run":
            self._end(fields)

    def fraction(self) -> float | None:
        """Return how much of the budget is spent, in [0, 1]: of the limit that is nearest; None without limits."""
        shares = [self._spent(name) / limit for name, limit in self.limits.items() if name in (*COUNTED, "wall")]
        return min(1.0, max(shares)) if shares else None

    def left(self) -> float | None:
        """Return the seconds until the first limit at the pace seen, None where nothing tells."""
        elapsed = self.now - self.started
        found = [self.limits["wall"] - elapsed] if "wall" in self.limits else []
        for name in COUNTED:
            if name in self.limits and self.done[name] > 0:
                found.append((self.limits[name] - self._spent(name)) * elapsed / self.done[name])
        return max(0.0, min(found)) if found else None

    def _spent(self, name: str) -> float:
        return self.now - self.started if name == "wall" else self.before[name] + self.done[name]

    def _end(self, fields: Fields) -> None:
        self.busy.discard(fields.get("number", -1))
        self.done["work"] += fields.get("seconds", 0.0)
        if is_lost(fields):
            return  # it is begun again, and counts once
        budget = fields.get("budget")
        self.done["trials"] += 1
        self.done["runs"] += 1.0 if not self.top or budget is None else budget / self.top
        self.failed += bool(fields.get("error"))
        if (
            is_number(fields.get("loss"))
            and not fields.get("missed")
            and (self.best is None or _rank(fields) < _rank(self.best))
        ):
            self.best = fields


class StudyLines(Written):
    """Plain lines for a log: each new best run, the first failure of each kind, and now and then how far it is."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        super().__init__(stream, clock)
        self.tally = Tally(started=self.started, now=self.started)
        self._last = self.started

    def __call__(self, kind: str, fields: Fields) -> None:
        """Print the event's line, if it has one."""
        line = describe(kind, fields, self.tally, self.clock())
        now = self.tally.now
        if line is None and kind == "run" and now - self._last >= BETWEEN_LINES:
            line = f"{state(self.tally)}, {timing(self.tally)}"
        if line is not None:
            self._last = now
            self.write(line, now)


class StudyLive(Redrawn):
    """A bar that is redrawn in place, with new best runs and failures in lines above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self.tally = Tally(started=self.started, now=self.started)

    def __call__(self, kind: str, fields: Fields) -> None:
        """Fold the event in; what must be known becomes a line above the bar."""
        line = describe(kind, fields, self.tally, self.clock())
        if line is not None:
            self.write(line, self.tally.now, "yellow" if fields.get("error") or kind == "warning" else None)

    def render(self) -> RenderableType:
        """Return the bar: runs, workers, failures, time gone and left, and the incumbent."""
        self.tally.now = self.clock()
        return bar(state(self.tally), self.tally.fraction(), timing(self.tally), incumbent(self.tally.best))


def describe(kind: str, fields: Fields, tally: Tally, now: float) -> str | None:
    """Fold an event in, and return its line, or None where it has none."""
    before = tally.best
    tally.take(kind, fields, now)
    number = fields.get("number")
    if kind == "begin":
        limits = ", ".join(f"{name}={limit:g}" for name, limit in tally.limits.items())
        workers = f"{tally.workers} worker{'s' if tally.workers > 1 else ''}"
        earlier = f", goes on after {tally.before['trials']:.0f} runs" if tally.before["trials"] else ""
        return f"search: {limits or 'no limit'}, {workers}{earlier}"
    if kind == "warning":
        return f"warning: {fields.get('text', '')}"
    if kind in ("space", "prior"):
        return str(fields.get("text", ""))
    if kind != "run":
        return None
    if is_lost(fields):
        return f"run {number} {fields['error']}; it is begun again"
    if tally.best is not before:
        return f"run {number}: {loss_of(fields)}, the best so far"
    if fields.get("traceback"):
        return f"run {number} failed: {fields.get('error')}\n{fields['traceback'].rstrip()}"
    return None


def is_lost(fields: Fields) -> bool:
    """Tell whether a run ended with its process, and is begun again."""
    return str(fields.get("error", "")).startswith("lost")


def loss_of(fields: Fields) -> str:
    """Return a run's loss and budget in words."""
    at = "" if fields.get("budget") is None else f" at budget {plain_text(fields['budget'])}"
    several = fields.get("objectives") or {}
    if len(several) > 1:
        return ", ".join(f"{name} {value:.6g}" for name, value in several.items()) + at
    return f"{next(iter(several.values()), fields['loss']):.6g}{at}"


def incumbent(best: Fields | None) -> str:
    """Return the best run and its configuration in one line."""
    if best is None:
        return "no run finished yet"
    config = ", ".join(f"{name}={plain_text(value)}" for name, value in best.get("config", {}).items())
    return f"best {loss_of(best)}: {config if len(config) <= LONGEST else config[: LONGEST - 3] + '...'}"


def state(tally: Tally) -> str:
    """Return what is done: `12 of 40 runs, 2 of 2 workers busy, 1 failed`."""
    ended = f"{tally.before['trials'] + tally.done['trials']:.0f}"
    runs = f"{ended} of {tally.limits['trials']:.0f} runs" if "trials" in tally.limits else f"{ended} runs"
    if "runs" in tally.limits:
        runs += f", {tally.before['runs'] + tally.done['runs']:.1f} of {tally.limits['runs']:g} full ones"
    busy = f"{len(tally.busy)} of {tally.workers} workers busy" if tally.workers > 1 else ""
    failed = f"{tally.failed} failed" if tally.failed else ""
    return ", ".join(part for part in (runs, busy, failed) if part)


def timing(tally: Tally) -> str:
    """Return the time gone, and about how much the first limit leaves."""
    left = tally.left()
    gone = f"{duration(tally.now - tally.started)} elapsed"
    return gone if left is None else f"{gone}, about {duration(left)} left"


def _rank(fields: Fields) -> tuple[float, float]:
    return -fields.get("rung", 0), fields["loss"]
