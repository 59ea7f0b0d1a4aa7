"""Runs in worker processes on this machine.

A worker is a fresh process (spawn) that serves one run after the other. One that dies (out of memory, a
segmentation fault, kill -9) costs the run that it had, which is told as lost, and another takes its place.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any, final

from paretune.errors import InputError, RunError
from paretune.search._study.executors import Executor, Job, Lost, Report
from paretune.search._study.guests import Desk, Guest
from paretune.search._study.objective import Objective, Outcome, Run, call
from paretune.search._study.source import source_hash

GRACE = 5.0
"""Seconds that a worker has to end by itself."""
START = 60.0
"""Seconds that a worker has to begin, which do not count as its run's."""
STARTS = 3
"""A run whose worker was killed before it had begun is given to another one so often; it did not see the run."""


@dataclass
class _Worker:
    number: int
    process: Any
    connection: Connection
    job: Job | None = None
    began: float = 0.0
    start: float = START
    """Seconds that it may still need to begin; 0 once it has."""
    starts: int = 1
    """The how many-th worker it is for its first run."""

    @property
    def took(self) -> float:
        return time.monotonic() - self.began

    def left(self, timeout: float) -> float:
        return timeout + self.start - self.took


@final
class Processes(Executor):
    """Worker processes on this machine.

    timeout: seconds after which a run is killed and counts as failed. memory: bytes that a worker may have.
    warn: is told where a worker finds another version of the objective, since a file was changed under way.
    """

    def __init__(
        self,
        objective: Objective,
        report: Report,
        slots: int,
        *,
        timeout: float | None,
        memory: int | None,
        warn: Callable[[str], None] = lambda text: None,
        desk: Desk | None = None,
    ) -> None:
        self._objective = pickled(objective, slots)
        self._report, self._warn, self.slots = report, warn, slots
        self._source, self._own = source_hash(objective), slots
        self._timeout, self._memory, self.desk = timeout, memory, desk
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def start(self, job: Job) -> None:
        """Give the job to a worker that is free, or to a new one."""
        for worker in [worker for worker in self._workers if worker.job is None]:
            if self._give(worker, job):
                return
            self._drop(worker)  # it died while it had nothing to do
        self._give(self._begun(), job)

    def _give(self, worker: _Worker, job: Job) -> bool:
        """Hand a job to a worker, and tell whether it was there to take it.

        One that was not has it all the same: of a new one `wait` sees the end.
        """
        worker.job, worker.began = job, time.monotonic()
        try:
            worker.connection.send(job)
        except OSError:
            return False
        return True

    def wait(self) -> list[tuple[int, Outcome | Lost]]:
        """Return what has ended: outcomes, and runs whose worker died or was killed for its time."""
        found: list[tuple[int, Outcome | Lost]] = []
        while not found and any(worker.job for worker in self._workers):
            busy = [worker for worker in self._workers if worker.job is not None]
            left = None if (most := self._timeout) is None else max(0.0, min(w.left(most) for w in busy))
            ends = [worker.process.sentinel for worker in busy if worker.process.sentinel is not None]
            bell = [] if self.desk is None else [self.desk.bell]
            ready = wait([*(worker.connection for worker in busy), *ends, *bell], left)
            if self.desk is not None and self.desk.bell in ready:
                for arrived in self.desk.arrivals():
                    self._add(*arrived)
                self.slots = self._own + sum(isinstance(worker.process, Guest) for worker in self._workers)
            for worker in busy:
                ended = self._look(worker, ready)
                if ended is not None:
                    found.append(ended)
            if bell and bell[0] in ready:
                return found  # there is more to begin
        return found

    def stop(self) -> None:
        """End all workers, those with a run too; lent ones are sent home."""
        if self.desk is not None:
            self.desk.close()
        for worker in self._workers:
            if worker.job is None and worker.process.is_alive():
                try:
                    worker.connection.send(None)
                except OSError:
                    continue
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(GRACE)
            if not isinstance(worker.process, Guest):
                worker.process.kill()
            worker.connection.close()
        self._workers.clear()

    def _begun(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_served, args=(theirs, self._memory), daemon=True)
        try:
            process.start()
        except OSError as error:
            raise RunError(
                f"workers: no process could be begun ({error}); what was finished is kept, take fewer of them"
            ) from error
        theirs.close()
        # not among its arguments: `start` would wait for ever where it dies before it has read them
        with suppress(OSError):  # it is dead, which shows when it is given a run
            ours.send_bytes(self._objective)
        return self._add(process, ours)

    def _add(self, process: Any, connection: Connection) -> _Worker:
        numbers = {worker.number for worker in self._workers}
        number = next(number for number in count() if number not in numbers)  # a dead one's, too
        self._workers.append(_Worker(number, process, connection))
        return self._workers[-1]

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self.slots -= isinstance(worker.process, Guest)

    def _look(self, worker: _Worker, ready: list[Any]) -> tuple[int, Outcome | Lost] | None:
        """Return how a worker's run ended, None where it goes on."""
        job = worker.job
        assert job is not None
        number = job.number
        try:
            while worker.connection.poll():
                kind, content = worker.connection.recv()
                if kind == "report":
                    self._report(number, *content)
                    continue
                if kind == "began":
                    worker.start, worker.began = 0.0, time.monotonic()
                    self._compare(content)
                    continue
                worker.job = None
                return number, replace(content, worker=worker.number)
        except (EOFError, OSError):
            pass  # it died; its sentinel says so
        if not worker.process.is_alive():
            self._drop(worker)
            if worker.start and worker.starts < STARTS and (worker.process.exitcode or 0) < 0:
                following = self._begun()
                following.starts = worker.starts + 1
                self._give(following, job)
                return None
            return number, Lost(_why(worker.process.exitcode), worker.took)
        if self._timeout is not None and worker.left(self._timeout) <= 0:
            worker.process.kill()
            worker.process.join(GRACE)
            self._drop(worker)
            told = f"it took longer than timeout={self._timeout:g} s and was killed"
            return number, Outcome(math.inf, worker.took, error=told)
        return None

    def _compare(self, source: str | None) -> None:
        if source is not None and self._source is not None and source != self._source:
            self._warn(
                f"a worker has another version of the objective (hash {source}, the study's {self._source})"
            )


def pickled(objective: Objective, workers: int) -> bytes:
    """Return an objective as it is sent to other processes; one that cannot be is an InputError."""
    try:
        return pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers={workers}: the objective cannot be sent to another process ({error}); define it at the top "
            "of a module, not as a lambda or inside of a function"
        ) from error


def _why(code: int | None) -> str:
    if code is None:
        return "its worker, lent by another process, ended"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    return f"its worker ended with exit code {code}"


def _served(connection: Any, memory: int | None) -> None:
    """Serve the driver that began this process; its first message is the objective."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        objective = connection.recv_bytes()
    except (EOFError, OSError):
        return  # the driver was killed in the meantime
    serve(connection, objective, memory)


def serve(connection: Any, objective: bytes, memory: int | None) -> None:
    """Run one job after the other until there are no more, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which lets runs end
    if memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    function, parent = pickle.loads(objective), os.getppid()
    try:
        connection.send(("began", source_hash(function)))
    except OSError:
        return  # the driver was killed in the meantime
    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:  # the driver was killed
                return
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        tell = lambda step, loss: connection.send(("report", (step, loss)))  # noqa: E731
        outcome = call(function, job.config, job.budget, Run(job.seed, job.checkpoint_dir, tell))
        try:
            connection.send(("ended", outcome))
        except OSError:
            return
