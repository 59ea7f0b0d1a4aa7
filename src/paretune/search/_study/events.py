"""What happens in a study, as it is told: kept with the seconds since the begin, and handed on to who listens.

Kinds: `begin` (limits, budgets, workers, what earlier processes did), `start` and `run` (a run's begin and its
end, as `Trial.to_json`; the first failure of a kind has its traceback), `report` (run, step, loss). Nothing of it
is stored: it follows from the trials.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

from paretune.search._study.front import found_by

if TYPE_CHECKING:
    from paretune.search._study.study import Search

Listen = Callable[[str, dict[str, Any]], None]
"""(kind, fields)."""
MOST = 100_000
"""Events that are kept, the last ones: an objective may report every batch of a long study."""


@final
@dataclass(frozen=True)
class Event:
    """Something that happened."""

    seconds: float
    """Since the study was begun or resumed."""
    kind: str
    fields: dict[str, Any]


@final
class Events:
    """Collects what is told, and tells it on."""

    def __init__(self, listen: Listen | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._listen, self._clock, self._began = listen, clock, clock()
        self._told: deque[Event] = deque(maxlen=MOST)
        self._failures: set[tuple[str, str]] = set()

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Take one event."""
        self._told.append(Event(self._clock() - self._began, kind, fields))
        if self._listen is not None:
            self._listen(kind, fields)

    def once(self, error: str, traceback: str) -> dict[str, str]:
        """Return the traceback of a failure, the first time that one of its kind comes from its line."""
        places = [line.strip() for line in traceback.splitlines() if line.lstrip().startswith("File ")]
        kind = error.partition(":")[0], places[-1] if places else error
        if not error or kind in self._failures:
            return {}
        self._failures.add(kind)
        return {"traceback": traceback or error}

    @property
    def heard(self) -> bool:
        """Whether anybody listens: what takes long to work out is told to nobody else."""
        return self._listen is not None

    @property
    def told(self) -> tuple[Event, ...]:
        """What was told so far, in its order."""
        return tuple(self._told)


def begin(search: Search) -> dict[str, Any]:
    """Return what is known when a study begins or goes on: the fields of the event `begin`."""
    trials, runs, work = search.spent
    best = found_by(search.trials.values(), search.goals, search.repeats.count, search.repeats.top).best
    return {
        "limits": asdict(search.limits),
        "budgets": list(search.budgets),
        "workers": search.executor.slots,
        "spent": {"trials": trials, "runs": runs, "work": work},
        "failed": search.failed,
        "best": best and best.to_json(),
    }
