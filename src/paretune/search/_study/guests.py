"""Workers that another process lends: how a driver takes them in.

The driver listens at a local socket, whose address and key stand in its record (`driver`). Each connection is
one worker, and serves runs as the driver's own do. It is a process of this machine and this user, so that one
whose run takes too long can be killed. A guest that ends costs the run that it had. Its connection is the
only way for a result to arrive, and it is closed when the worker is given up: no late result of a run that
was begun again can come, and there is no need to tell which of two counts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from dataclasses import dataclass
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, final

from paretune.search._study.driver import process_start


@final
@dataclass(frozen=True)
class Guest:
    """A lent worker, with what of a process is asked for."""

    pid: int
    started: str | None
    sentinel: None = None
    exitcode: None = None

    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        return process_start(self.pid) == self.started

    def kill(self) -> None:
        """End it; the process that lent it begins another one."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def join(self, timeout: float) -> None:
        """It is another process's to wait for."""


@final
class Desk:
    """Where workers of other processes arrive; a thread waits for them."""

    def __init__(self) -> None:
        self.key = os.urandom(32)
        self._listener = Listener(None, authkey=self.key)  # a socket that this user alone can reach
        self._arrived: queue.SimpleQueue[tuple[Guest, Connection]] = queue.SimpleQueue()
        self.bell, self._rope = Pipe(duplex=False)
        """Readable when one has arrived."""
        self._over = False
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Return where it is."""
        return str(self._listener.address)

    def arrivals(self) -> list[tuple[Guest, Connection]]:
        """Return who has arrived since."""
        while self.bell.poll():
            self.bell.recv()
        found = []
        while not self._arrived.empty():
            found.append(self._arrived.get())
        return found

    def close(self) -> None:
        """Take in no more; who is not yet taken in is sent away."""
        if self._over:
            return
        self._over = True
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            Client(self.address, authkey=self.key).close()  # wakes the thread
        self._thread.join(5.0)
        self._listener.close()
        for _, connection in self.arrivals():
            connection.close()
        self.bell.close()
        self._rope.close()

    def _receive(self) -> None:
        while not self._over:
            try:
                connection: Any = self._listener.accept()
                guest = Guest(*connection.recv())
            except (OSError, EOFError, AuthenticationError):
                continue  # one that has not the key, or was killed
            self._arrived.put((guest, connection))
            self._rope.send(None)
