"""The SQLite file of a study: how it is opened, and what to say where that, or a write, does not work.

A file is checked whole before anything is written to it; one that is damaged is left as it is (`salvage`).
Whatever SQLite answers later is told as what happened, to which file, and what to do: as the user's mistake while
a study is opened, as the end of the run afterwards. What was written before such an end is kept, SQLite sees to
that.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from paretune.errors import InputError, ParetuneError, RunError
from paretune.search._study.salvage import keep_damaged

TIMEOUT = 60.0
"""Seconds that a write waits for another one."""
TURNS = 5
"""Optuna tries so often to store a new trial, each time for its share of `TIMEOUT`."""
SQLITE = "sqlite:///"
BUSY, LOCKED, CORRUPT, FOREIGN = 5, 6, 11, 26
"""SQLite's result codes, as https://www.sqlite.org/rescode.html lists them."""
MEANT = {
    3: "may not be opened; see its permissions",
    8: "cannot be written to, it or its folder is read-only; copy it to a folder of yours, or see its permissions",
    10: "could not be read or written: the disk failed, is full, or a limit of file sizes was reached",
    13: "could not be written: the disk is full; free some space",
    14: "cannot be opened; see that it is a file, and that neither it nor its folder is read-only",
    FOREIGN: "is no SQLite database",
}
"""What a code says of a file."""
Method = TypeVar("Method", bound=Callable[..., Any])


def path_at(url: str | None) -> Path | None:
    """Return the file of a URL as sqlite:///study.db; None of another, or of none."""
    return Path(url.removeprefix(SQLITE)) if isinstance(url, str) and url.startswith(SQLITE) else None


def check(path: Path) -> None:
    """Raise an InputError where a file is no whole SQLite database; it is only read. One that is not there is."""
    if not path.parent.is_dir():
        raise InputError(f"storage: there is no folder '{path.parent}' for {path.name}")
    if path.is_dir():
        raise InputError(f"storage: {path} is a folder; name a file")
    if not path.exists() or path.stat().st_size == 0:
        return
    with told(path, InputError, "storage"):
        try:
            with closing(reading(path)) as connection:
                problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.DatabaseError as error:
            if _code(error) != CORRUPT:
                raise
            problems = [str(error)]
    if problems != ["ok"]:
        raise InputError(f"storage: {keep_damaged(path, problems[0])}")


def reading(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing. Nothing but SQLite may open the file: to close it again would drop
    the locks that this process has on it."""
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=TIMEOUT)


@contextmanager
def told(path: Path | None, kind: type[ParetuneError], where: str = "storage") -> Iterator[None]:
    """Let the block's database errors be told of this file; None is a database that is none."""
    try:
        yield
    except json.JSONDecodeError as error:  # its pages are whole, but not what stands on them
        if path is None:
            raise
        raise kind(f"{where}: {keep_damaged(path, str(error))}") from error
    except Exception as error:
        found = database_error(error)
        if found is None:
            raise
        raise kind(f"{where}: {_meaning(found, path)}. What was stored before is kept") from error


def writes(function: Method) -> Method:
    """Let a method of a store write: what the database answers ends the run, a lock after `TIMEOUT`."""

    @functools.wraps(function)
    def writing(store: Any, *args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + TIMEOUT
        with told(store.path, RunError):
            while True:
                store.check_driver()
                try:
                    return function(store, *args, **kwargs)
                except Exception as error:
                    if not is_locked(error) or time.monotonic() >= until:
                        raise

    return cast(Method, writing)


def database_error(error: BaseException | None) -> BaseException | None:
    """Return the database's own error behind one of Optuna or SQLAlchemy, None where there is none."""
    while error is not None:
        original = getattr(error, "orig", None)
        if isinstance(error, sqlite3.Error):
            return error
        if isinstance(original, BaseException):
            return original
        error = error.__cause__
    return None


def is_locked(error: BaseException) -> bool:
    """Tell whether another process held the database for too long."""
    return _code(database_error(error)) in (BUSY, LOCKED)


def _code(error: BaseException | None) -> int:
    """Return SQLite's primary result code; 0 is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _meaning(error: BaseException, path: Path | None) -> str:
    if path is None or not isinstance(error, sqlite3.Error):
        return f"the database answered: {error}"
    code = _code(error)
    if code in (BUSY, LOCKED):
        names = ", ".join(holders(path)) or "another process"
        return f"{path} is locked by {names}, and was for {TIMEOUT:g} s; end that, or wait for it"
    if code == CORRUPT or "decode to UTF-8" in str(error):
        return keep_damaged(path, str(error))
    if code == FOREIGN:
        return f"{path} {MEANT[code]} that can be used ({error}); it was left as it is"
    return f"{path} {MEANT.get(code, 'gave an error')} ({error})"


def holders(path: Path) -> list[str]:
    """Return the processes that lock a database for writing, or else have it open: "process 12 (python)".

    What can be seen of others, on Linux alone; elsewhere the list is empty.
    """
    files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))]
    inodes = {file.stat().st_ino for file in files if file.exists()}
    locks = _lines(Path("/proc/locks"))
    pids = {
        int(pid)
        for _, _, _, kind, pid, place, *_ in (line for line in locks if len(line) >= 8)
        if kind == "WRITE" and int(place.rpartition(":")[2]) in inodes and pid.isdigit()
    }
    return [f"process {pid}{_name(pid)}" for pid in sorted(pids or _opened(files) - {os.getpid()})]


def _opened(files: list[Path]) -> set[int]:
    """Return the processes that have one of these files open."""
    names, found = {str(file.resolve()) for file in files}, set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in names:
                found.add(int(link.parts[2]))
        except OSError:
            continue
    return found


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []


def _name(pid: int) -> str:
    command = _lines(Path(f"/proc/{pid}/comm"))
    return f" ({' '.join(command[0])})" if command else ""
