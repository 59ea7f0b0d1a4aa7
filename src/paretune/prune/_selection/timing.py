"""Timing: candidates are really cut, exported, and timed against the whole model in interleaved rounds."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.data import map_tensors
from paretune.prune._couplings.units import Axis
from paretune.prune._cut import Selection, cut
from paretune.prune._selection.clock import Clock
from paretune.prune._stopwatch import Stopwatch, in_words
from paretune.target import Target

if TYPE_CHECKING:
    from paretune.measure import OperatorTable
    from paretune.measurement import Latency
    from paretune.prune._analysis import Analysis


class Timing:
    """Times cut candidates against the whole model on a target; each choice once."""

    def __init__(self, analysis: Analysis, target: Target, table: OperatorTable | None = None) -> None:
        """table: of operator times; the user's own where none is given."""
        self.analysis, self.target, self._table = analysis, target, table
        self.seen: dict[bytes, Latency] = {}
        """By the units that are removed."""
        self._watch = Stopwatch(analysis.model, as_given(analysis), target)

    def timed(self, removed: Axis) -> Latency:
        """Cut, export and time the model without these units."""
        key = np.sort(removed).tobytes()
        if key not in self.seen:
            self.seen[key] = self._time(removed)
        return self.seen[key]

    @cached_property
    def clock(self) -> Clock:
        """What tells the time of a candidate without cutting it."""
        return self._make_clock()

    def notes(self, removed: Axis) -> tuple[str, ...]:
        """Return what was timed, in words."""
        told, source = "", ""
        if "clock" in self.__dict__:
            told = f"; operator times had told {self.clock.ratio(self.analysis.keep(removed)):.2f}"
            source = self.clock.table.note
        note = (
            f"latency: {in_words(self.timed(removed), self.target)}, one of {len(self.seen)} shapes that were "
            f"timed{told}"
        )
        return (note, source) if source else (note,)

    def _make_clock(self) -> Clock:
        from paretune.measure import OperatorTable

        return Clock(self.analysis, self._table or OperatorTable(self.target), *self._watch.profile())

    def _time(self, removed: Axis) -> Latency:
        return self._watch.time(cut(self.analysis, Selection(removed, {})).model if len(removed) else None)


def as_given(analysis: Analysis) -> Any:
    """Return the example with the batch that it had before capture repeated it."""
    captured = analysis.captured
    if captured.repeat == 1:
        return captured.example
    return map_tensors(
        lambda t: t[: len(t) // captured.repeat] if t.dim() and len(t) == captured.batch else t, captured.example
    )
