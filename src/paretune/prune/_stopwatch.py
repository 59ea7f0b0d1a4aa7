"""A stopwatch: candidates are exported and timed on the target, in turns with the model they were made from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from paretune.target import Target

if TYPE_CHECKING:
    from paretune.measure import Event
    from paretune.measurement import Latency

SECONDS = 1.0
"""How long one candidate is timed."""


class Stopwatch:
    """Times what became of a model."""

    def __init__(self, model: nn.Module, example: Any, target: Target) -> None:
        self.target, self._example = target, example
        self._folder = tempfile.TemporaryDirectory(prefix="paretune-")
        self._whole = self._write(model, "whole")

    def time(self, candidate: nn.Module | None) -> Latency:
        """Return what a candidate takes, and its ratio to the whole model; None: what the whole model takes."""
        from paretune.measure import latency

        files = [self._whole, *([self._write(candidate, "cut")] if candidate is not None else [])]
        return latency(files, self.target, seconds=SECONDS, inputs=self._example)[-1]

    def profile(self) -> tuple[list[Event], float]:
        """Return what the runtime runs of the whole model, and milliseconds of a call."""
        from paretune.measure import profiled

        return profiled(self._whole, self.target, inputs=self._example)

    def _write(self, model: nn.Module, name: str) -> Path:
        from paretune.export import export_onnx, save, strip

        return save(strip(export_onnx(model, self._example).graph), Path(self._folder.name) / f"{name}.onnx")


def in_words(seen: Latency, target: Target) -> str:
    """Return what was timed as a sentence has it."""
    noise = "; the machine was too noisy for a verdict" if seen.verdict == "too noisy" else ""
    return (
        f"{seen.median_ms:.3g} ms, {seen.ratio:.2f} ({seen.ratio_low:.2f} to {seen.ratio_high:.2f}) of the whole "
        f"model's, on {target.runtime} with {target.threads} threads at batch {target.batch}{noise}"
    )
