"""Timing: candidates are really cut, exported, and timed against the whole model in interleaved rounds."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from paretune.data import map_tensors
from paretune.prune._couplings.units import Axis
from paretune.prune._cut import Selection, cut
from paretune.prune._selection.clock import Clock
from paretune.target import Target

if TYPE_CHECKING:
    from paretune.measure import OperatorTable
    from paretune.measurement import Latency
    from paretune.prune._analysis import Analysis

SECONDS = 1.0
"""How long one candidate is timed."""


class Timing:
    """Times cut candidates against the whole model on a target; each choice once."""

    def __init__(self, analysis: Analysis, target: Target, table: OperatorTable | None = None) -> None:
        """table: of operator times; the user's own where none is given."""
        self.analysis, self.target, self._table = analysis, target, table
        self.seen: dict[bytes, Latency] = {}
        """By the units that are removed."""
        self._folder = tempfile.TemporaryDirectory(prefix="paretune-")
        self._example = as_given(analysis)
        self._whole = self._write(analysis.model, "whole")

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
        seen, target = self.timed(removed), self.target
        told, source = "", ""
        if "clock" in self.__dict__:
            told = f", where operator times had told {self.clock.ratio(self.analysis.keep(removed)):.2f}"
            source = self.clock.table.note
        noise = "; the machine was too noisy for a verdict" if seen.verdict == "too noisy" else ""
        note = (
            f"latency: {seen.median_ms:.3g} ms, {seen.ratio:.2f} ({seen.ratio_low:.2f} to {seen.ratio_high:.2f}) "
            f"of the whole model's{told}, on {target.runtime} with {target.threads} threads at batch "
            f"{target.batch}, one of {len(self.seen)} shapes that were timed{noise}"
        )
        return (note, source) if source else (note,)

    def _make_clock(self) -> Clock:
        from paretune.measure import OperatorTable, profiled

        profile, whole = profiled(self._whole, self.target, inputs=self._example)
        return Clock(self.analysis, self._table or OperatorTable(self.target), profile, whole)

    def _time(self, removed: Axis) -> Latency:
        from paretune.measure import latency

        files = [self._whole]
        if len(removed):
            files.append(self._write(cut(self.analysis, Selection(removed, {})).model, "cut"))
        return latency(files, self.target, seconds=SECONDS, inputs=self._example)[-1]

    def _write(self, model: nn.Module, name: str) -> Path:
        from paretune.export import export_onnx, save, strip

        return save(strip(export_onnx(model, self._example).graph), Path(self._folder.name) / f"{name}.onnx")


def as_given(analysis: Analysis) -> Any:
    """Return the example with the batch that it had before capture repeated it."""
    captured = analysis.captured
    if captured.repeat == 1:
        return captured.example
    return map_tensors(
        lambda t: t[: len(t) // captured.repeat] if t.dim() and len(t) == captured.batch else t, captured.example
    )
