"""A run of a study: one configuration on one budget, as it is stored and as all else looks at it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from paretune.search._schedule.ladder import Budget
from paretune.search._space.space import Config

LOST = "lost"
"""What the error of a run begins with whose process ended."""
TAKEN = "earlier"
"""The origin of a run that another version of the study made."""


@final
@dataclass(frozen=True)
class Trial:
    """A run as it is stored."""

    number: int
    """Of the run, counted from 0."""
    config_number: int
    config: Config
    budget: Budget | None
    rung: int
    bracket: int
    origin: str
    seen: int
    """How many finished runs the suggestion was made from."""
    attempt: int
    loss: float | None
    """The first objective, the lower the better; None while it runs, infinity where it failed."""
    seconds: float
    values: dict[str, float]
    """What else it returned, `test` and the like among it."""
    error: str
    finished: datetime | None
    repeat: int = 0
    """Which one of several runs of the same configuration on the largest budget, counted from 0."""
    stderr: float | None = None
    """Standard error of the loss, where the run stands for the mean of several."""
    turn: int = 0
    """How many suggestions were set aside for it, for want of time."""
    worker: int = 0
    """Who ran it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; infinity is null."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        found = {name: value for name, value in vars(self).items() if name != "finished"}
        state = "running" if self.loss is None else "failed" if self.error else "finished"
        return found | {"loss": loss, "state": state}


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the run of the least loss on the largest budget that any was finished on; None where none was."""
    finished = [(trial.loss, trial) for trial in trials if trial.loss is not None and not trial.error]
    top = max((trial.rung for _, trial in finished), default=0)
    ranked = sorted((loss, trial.number, trial) for loss, trial in finished if trial.rung == top)
    return ranked[0][2] if ranked else None
