"""What a study hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from paretune.errors import InfeasibleError, RunError
from paretune.search._space.space import Config
from paretune.search._study.events import Event
from paretune.search._study.front import Found
from paretune.search._study.trial import Trial


@final
@dataclass(frozen=True)
class Result:
    """What a study found."""

    best: Trial | None
    """The run of the least loss on the largest budget that was finished on, of those that hold the constraints;
    with several objectives, of the least first one; with repeats, it has the means. None where there is none."""
    trials: tuple[Trial, ...]
    ended: str
    """Which limit ended it, or that there was nothing left to try."""
    found: Found
    """Beside the front, what came nearest to the constraints where no run holds them."""
    events: tuple[Event, ...] = ()
    """What was told to `listen`, with the seconds since this process began."""

    def __repr__(self) -> str:
        failed = sum(bool(trial.error) for trial in self.trials)
        at = "" if self.best is None or self.best.budget is None else f" at budget {self.best.budget}"
        found = "none" if self.best is None else f"{self.best.loss:.6g}{at} by {self.best.config!r}"
        return f"Result(best: {found}; {len(self.trials)} runs, {failed} failed; ended by {self.ended})"

    @property
    def front(self) -> tuple[Trial, ...]:
        """The runs on the largest budget that hold the constraints and that no other one dominates, by the first
        objective; with one objective the best alone."""
        return self.found.front

    @property
    def config(self) -> Config:
        """The best configuration."""
        if self.found.nearest is not None:
            near = self.found.nearest
            raise InfeasibleError(
                f"no run holds the constraints; the nearest is run {near.number}, whose {self.found.missed} "
                f"({near.config!r})"
            )
        if self.best is None:
            raise RunError(f"no run of the study succeeded ({len(self.trials)} failed)")
        return dict(self.best.config)
