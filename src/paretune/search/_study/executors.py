"""Where runs happen, as the study sees it in three calls; in this process at its simplest."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from paretune.search._study.guests import Desk
from paretune.search._study.objective import Objective, Outcome, Run, call

Report = Callable[[int, int, float], None]
"""(run, step, loss), told under way."""


@final
@dataclass(frozen=True)
class Job:
    """A run as it is handed to an executor."""

    number: int
    config: dict[str, Any]
    budget: Any
    seed: int
    checkpoint_dir: Path | None


@final
@dataclass(frozen=True)
class Lost:
    """A run that ended with its process."""

    why: str
    seconds: float


class Executor(ABC):
    """Runs an objective."""

    slots: int
    """Runs at the same time."""
    desk: Desk | None = None
    """Where workers of other processes arrive."""

    def clock(self) -> float:
        """Return the time in seconds, from any origin, by which limits of wall time go."""
        return time.monotonic()

    @abstractmethod
    def start(self, job: Job) -> None:
        """Begin a run; there is a free slot."""

    @abstractmethod
    def wait(self) -> list[tuple[int, Outcome | Lost]]:
        """Return the runs that have ended since: at least one where any is under way, or a worker has arrived."""

    @abstractmethod
    def stop(self) -> None:
        """End all runs at once; what was under way is lost."""


@final
class InProcess(Executor):
    """Runs in this process, one at a time."""

    slots = 1

    def __init__(self, objective: Objective, report: Report) -> None:
        self._objective, self._report = objective, report
        self._job: Job | None = None

    def start(self, job: Job) -> None:
        """Take a job, which `wait` runs."""
        self._job = job

    def wait(self) -> list[tuple[int, Outcome | Lost]]:
        """Run it."""
        assert self._job is not None
        job, self._job = self._job, None
        tell = lambda step, loss: self._report(job.number, step, loss)  # noqa: E731
        return [
            (job.number, call(self._objective, job.config, job.budget, Run(job.seed, job.checkpoint_dir, tell)))
        ]

    def stop(self) -> None:
        """There is nothing to stop."""
