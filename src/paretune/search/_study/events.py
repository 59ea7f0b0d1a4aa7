"""What happens in a study, as it is told: kept with the seconds since the begin, and handed on to who listens.

Kinds: `begin` (limits, budgets, workers, what earlier processes spent), `start` and `run` (a run's begin and its
end, as `Trial.to_json`), `report` (run, step, loss). Nothing of it is stored: it follows from the trials.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

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

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Take one event."""
        self._told.append(Event(self._clock() - self._began, kind, fields))
        if self._listen is not None:
            self._listen(kind, fields)

    @property
    def told(self) -> tuple[Event, ...]:
        """What was told so far, in its order."""
        return tuple(self._told)


def begin(search: Search) -> dict[str, Any]:
    """Return what is known when a study begins or goes on: the fields of the event `begin`."""
    trials, runs, work = search.spent
    return {
        "limits": asdict(search.limits),
        "budgets": list(search.budgets),
        "workers": search.executor.slots,
        "spent": {"trials": trials, "runs": runs, "work": work},
        "failed": search.failed,
    }
