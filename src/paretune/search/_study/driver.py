"""Who runs a study: one process at a time, which says so in an attribute of the study.

The record names host, process and since when, and is refreshed every few seconds. It lies with the trials, so that
every storage has it and no file beside can be left behind or forgotten when the storage is moved; it is replaced
only as it was read, in one statement, so that of two processes that begin at the same moment one is refused.

On the same machine the process itself tells whether the record is alive: its number, and when it was started,
since numbers are used again. A record of another machine is believed until it has not been refreshed for a minute,
by clocks that are taken to agree.

Optuna's heartbeat is not used. It belongs to trials, asks for a transaction every few seconds for each of them,
and sees a dead process only when its grace period is over; what it would fail and begin again
(`fail_stale_trials`, the retry callback), the next driver does when it reads the study.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, final
from uuid import uuid4

from paretune.errors import InputError, RunError

ATTRIBUTE = "driver"
BEAT = 10.0
"""Seconds between two signs of life."""
STALE = 60.0
"""A driver of another machine is dead when its last sign is so old, in seconds."""
_OURS: set[str] = set()
"""Records of this process that are in force; one that is in none of them was left by an error."""


@final
@dataclass(frozen=True)
class Driver:
    """A process that runs a study."""

    host: str
    machine: str
    """Where `pid` means something: boot and process namespace; empty where that cannot be told."""
    pid: int
    started: str
    """When the process was started, in the system's words."""
    since: str
    """When it began to drive, local time."""
    beat: float
    """Seconds since 1970 of its last sign of life."""
    token: str
    """What tells this record from all others."""
    address: str = ""
    """Where it takes workers of other processes (`join`); empty where it takes none."""
    key: str = ""
    """What these must show, in hexadecimal."""
    strict: bool = False
    """Whether they must have the same version of the objective."""

    @property
    def alive(self) -> bool:
        """Whether the process still runs, as far as can be told from here."""
        if self.here:
            if self.pid == os.getpid():
                return self.token in _OURS
            found = process_start(self.pid)
            if found is not None:
                return found == self.started
        return time.time() - self.beat < STALE

    @property
    def here(self) -> bool:
        """Whether it ran on this machine, since this boot."""
        return bool(self.machine) and (self.host, self.machine) == (socket.gethostname(), _machine())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def process_start(pid: int) -> str | None:
    """Return when a process of this machine was started, empty where there is none, None where it cannot be told.

    >>> process_start(os.getpid()) == process_start(os.getpid()), process_start(2**22 + 1)
    (True, '')
    """
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return ""
        fields = text.rpartition(")")[2].split()  # its name may have spaces and parentheses
        return "" if fields[0] in "ZX" else fields[19]
    try:
        return subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "" if os.name == "nt" else socket.gethostname()


@final
class Seat:
    """The place of a study's driver, in its storage: one sits there."""

    def __init__(self, storage: Any, study: int, name: str) -> None:
        """storage: Optuna's, in a database. study: its number there."""
        self._engine, self._study, self._name = storage.engine, study, name
        self._text = ""
        self._gone: Driver | None = None
        """Who took the seat away."""
        self._lock = threading.Lock()
        self._over = threading.Event()

    def look(self) -> Driver | None:
        """Return who sits there, dead or alive."""
        return _read(self._stored())

    def free(self) -> str | None:
        """Return the record of a driver that is dead, None where there is none; one alive is an InputError."""
        text = self._stored()
        sitting = _read(text)
        if sitting is not None and sitting.alive:
            raise InputError(
                f"study '{self._name}' is being run by {sitting}; wait for it, stop it, or lend it workers with "
                "join=True (--join)"
            )
        return text

    @contextmanager
    def taken(self, address: str = "", key: str = "", *, strict: bool = False) -> Iterator[Driver]:
        """Drive the study for as long as the block runs; an InputError where another process does."""
        mine = Driver(
            socket.gethostname(), _machine(), os.getpid(), process_start(os.getpid()) or "",
            datetime.now().astimezone().isoformat(" ", "seconds"), time.time(), uuid4().hex, address, key, strict,
        )  # fmt: skip
        self._text = json.dumps(asdict(mine))
        _OURS.add(mine.token)
        self._over.clear()
        try:
            while not self._swap(self.free(), self._text):
                pass  # another one was faster, and is looked at
            thread = threading.Thread(target=self._beat, args=(mine,), daemon=True)
            thread.start()
            try:
                yield mine
            finally:
                self._over.set()
                thread.join()
                self._quietly(None)
        finally:
            _OURS.discard(mine.token)

    def check(self) -> None:
        """Raise a RunError where another process drives by now: this one was silent for too long."""
        if self._gone is not None:
            raise RunError(
                f"study '{self._name}' was taken over by {self._gone}: this process gave no sign of life for "
                f"{STALE:.0f} s. What it had finished is kept"
            )

    def _beat(self, mine: Driver) -> None:
        while not self._over.wait(BEAT):
            self._quietly(json.dumps(asdict(replace(mine, beat=time.time()))))

    def _quietly(self, text: str | None) -> None:
        """Replace the own record; a storage that does not answer now will say so to the study itself."""
        import sqlalchemy

        with self._lock:
            try:
                if self._swap(self._text, text):
                    self._text = text or ""
                elif text is not None:
                    self._gone = self.look()
            except sqlalchemy.exc.SQLAlchemyError:
                return

    def _stored(self) -> str | None:
        table, here = self._table()
        with self._engine.connect() as connection:
            found = connection.execute(table.select().where(*here)).mappings().first()
        return None if found is None else str(found["value_json"])

    def _swap(self, old: str | None, new: str | None) -> bool:
        """Replace what is stored, where it still is `old`; None is no record. Return whether it was."""
        import sqlalchemy

        table, here = self._table()
        statement: Any
        if old is None:
            statement = table.insert().values(study_id=self._study, key=ATTRIBUTE, value_json=new)
        else:
            statement = table.delete() if new is None else table.update().values(value_json=new)
            statement = statement.where(*here, table.c.value_json == old)
        try:
            with self._engine.begin() as connection:
                return bool(connection.execute(statement).rowcount)
        except sqlalchemy.exc.IntegrityError:
            return False

    def _table(self) -> tuple[Any, tuple[Any, ...]]:
        """Return Optuna's table of what is said of studies, and the condition of this record."""
        import sqlalchemy

        columns: list[Any] = [sqlalchemy.column(name) for name in ("study_id", "key", "value_json")]
        table = sqlalchemy.table("study_user_attributes", *columns)
        return table, (table.c.study_id == self._study, table.c.key == ATTRIBUTE)


def _read(text: str | None) -> Driver | None:
    return None if text is None else Driver(**json.loads(text))
