"""A search in told time: runs say what they would take, and take nothing. For benchmarks on surrogates, and tests.

The schedule, the sampler and the limits are those of a real study; only the clock is that of the runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, final

from paretune.search._space.space import Space
from paretune.search._study.definition import plan_to_json
from paretune.search._study.events import Events, Listen
from paretune.search._study.executors import Executor, Job, Lost
from paretune.search._study.limits import Spec, limits_of
from paretune.search._study.method import Method, method_of
from paretune.search._study.objective import Outcome
from paretune.search._study.result import Result
from paretune.search._study.storage import Store
from paretune.search._study.study import Search

Told = Callable[[dict[str, Any], Any], tuple[float, float]]
"""(config, budget) -> loss and seconds."""


@final
class Simulated(Executor):
    """Runs on `slots` workers whose clock moves on to the next end of a run.

    speeds: seconds that each worker takes as a part of what is told, 1 where not given.
    """

    def __init__(self, told: Told, slots: int = 1, speeds: tuple[float, ...] = ()) -> None:
        self.slots, self._told = slots, told
        self._speeds = (*speeds, *(1.0 for _ in range(slots - len(speeds))))
        self._now, self._free = 0.0, list(range(slots))
        self._running: list[tuple[float, int, int, float, float]] = []
        """End, number, worker, seconds, loss."""

    def clock(self) -> float:
        """Return the seconds since the begin."""
        return self._now

    def start(self, job: Job) -> None:
        """Work out how a run will end."""
        loss, seconds = self._told(job.config, job.budget)
        worker = self._free.pop(0)
        seconds *= self._speeds[worker]
        heapq.heappush(self._running, (self._now + seconds, job.number, worker, seconds, loss))

    def wait(self) -> list[tuple[int, Outcome | Lost]]:
        """Go on to the end of the run that ends first."""
        self._now, number, worker, seconds, loss = heapq.heappop(self._running)
        self._free = sorted([*self._free, worker])
        return [(number, Outcome(loss, seconds, worker=worker))]

    def stop(self) -> None:
        """There is nothing to stop."""


def simulate(
    executor: Simulated,
    space: Space,
    method: Method,
    budget: Spec,
    *,
    storage: str | None = None,
    seed: int = 0,
    listen: Listen | None = None,
) -> Result:
    """Return what `minimize` would find, by the clock of an executor."""
    sampler = method_of(method)
    store = Store(storage, "study", plan_to_json(space, sampler, seed), resume=False)
    return Search(executor, space, sampler, limits_of(budget), store, seed, None, Events(listen)).run()
