"""The folder of a run: what it is doing, what it finished, and what came out.

`recipe.yaml` (as resolved), `events.jsonl` (what happened), `checkpoints/`, `artifacts/`, `summary.json`,
`report.html`. One process at a time: the lock is the kernel's and goes with the process, however it dies.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from paretune.errors import InputError
from paretune.files import disk_error, write_json, write_text

QUIET_KINDS = ("batch", "measuring")
"""Events for the display only: too many to keep."""


@dataclass(frozen=True)
class RunFolder:
    """An open, locked run folder."""

    path: Path
    listen: Callable[[str, dict[str, Any]], None]
    _events: IO[str]

    @property
    def checkpoints(self) -> Path:
        """Finished steps, and the epochs of the step under way."""
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """The `.onnx` files with their certificates."""
        return self.path / "artifacts"

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        """Tell the listener, and append to `events.jsonl` (display-only kinds are not kept)."""
        if kind not in QUIET_KINDS:
            self.keep(kind, fields)
        self.listen(kind, fields)

    def keep(self, kind: str, fields: dict[str, Any]) -> None:
        """Append to `events.jsonl` without telling the listener."""
        self._append({"time": round(time.time(), 3), "kind": kind, **fields})

    def record(self, kind: str, fields: dict[str, Any]) -> None:
        """Append an event that a resumed run must find: on disk before this returns."""
        self.emit(kind, fields)
        os.fsync(self._events.fileno())

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """Return every event of a kind so far, earlier runs of this folder included."""
        return [event for event in read_events(self.path) if event.get("kind") == kind]

    def _append(self, event: dict[str, Any]) -> None:
        try:
            self._events.write(json.dumps(event, default=str) + "\n")
            self._events.flush()
        except OSError as error:
            raise disk_error(self.path / "events.jsonl", error) from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, atomically."""
        write_json(self.path / "summary.json", summary)


@contextmanager
def open_run(
    path: str | Path,
    settings: dict[str, str],
    *,
    resume: bool,
    listen: Callable[[str, dict[str, Any]], None] | None = None,
) -> Iterator[RunFolder]:
    """Create or resume a run folder, hold its lock, and close it whatever happens.

    settings: file name -> text that says what is run (`recipe.yaml`); a resumed folder must hold the same.
    """
    path = Path(path)
    existing = {name: (path / name).read_text() for name in settings if (path / name).is_file()}
    if existing and not resume:
        raise InputError(
            f"{path} holds a run already: `paretune run --resume {path}` goes on with it, "
            "--out chooses another folder"
        )
    if resume and not existing:
        raise InputError(f"{path} holds no run to resume: it has no {' or '.join(settings)}")
    for name, text in settings.items():
        if name in existing and existing[name] != text:
            raise InputError(
                f"{path}/{name} is of another run (its settings differ); resume it as it was, "
                "or choose another --out"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error
    with _lock(path):
        for name, text in settings.items():
            if name not in existing:
                write_text(path / name, text)
        _sweep(path)
        _drop_torn_line(path / "events.jsonl")
        try:
            events = (path / "events.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(path / "events.jsonl", error) from error
        with events:
            yield RunFolder(path, listen or (lambda kind, fields: None), events)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run folder; a last line that a kill cut short is left out."""
    file = Path(path) / "events.jsonl"
    if not file.is_file():
        return []
    events = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _sweep(path: Path) -> None:
    """Remove the temporary files that a kill in the middle of a write left: the lock says nobody writes here."""
    for temporary in path.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _drop_torn_line(file: Path) -> None:
    """Cut what follows the last line end: a kill in the middle of a write left it."""
    if not file.is_file():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as handle:
            handle.truncate(whole)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: no flock; a second run is not refused there
        yield
        return
    file = path / ".lock"
    try:
        handle = file.open("a+")
    except OSError as error:
        raise disk_error(file, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise InputError(
                f"{path} is in use by process {owner}: two runs cannot share a folder; wait for it, "
                "or choose another --out"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield
