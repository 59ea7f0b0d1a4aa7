"""What channels that stand in order are cut to: a ratio of them, or a budget of MACs or parameters."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.errors import InputError, is_number
from paretune.prune._analysis import Analysis
from paretune.prune._selection.budget import Budget, budget, target_amount

GOALS = ("ratio", "macs", "params")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Exactly one of GOALS; `who` is named in errors."""

    who: str
    ratio: float | None = None
    macs: float | str | None = None
    params: float | str | None = None

    def __post_init__(self) -> None:
        asked = [name for name in GOALS if getattr(self, name) is not None]
        if len(asked) != 1:
            raise InputError(
                f"{self.who}: give exactly one of {', '.join(GOALS)}; got {' and '.join(asked) or 'none'}"
            )
        if self.ratio is not None and not (is_number(self.ratio) and 0 <= self.ratio < 1):
            raise InputError(
                f"{self.who}: ratio={self.ratio!r} must be at least 0 and below 1; it is the fraction of the "
                "channels that is removed"
            )
        for name in GOALS[1:]:
            if getattr(self, name) is not None:
                target_amount(name, getattr(self, name), 1, self.who)

    def of(self, analysis: Analysis) -> float | Budget:
        """Return the fraction of bundles to remove, or the budget."""
        if self.ratio is not None:
            return self.ratio
        name, asked = next((n, v) for n in GOALS[1:] if (v := getattr(self, n)) is not None)
        return budget(analysis, name, asked, step=self.who)
