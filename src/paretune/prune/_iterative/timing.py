"""How long the models of the rounds take beside the one that was given, on the target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from paretune.errors import ParetuneError

if TYPE_CHECKING:
    from paretune.target import Target
    from paretune.task import Task

SECONDS = 0.3
"""For each model."""


def timed(
    models: Sequence[nn.Module], task: Task, target: Target
) -> tuple[list[dict[str, Any] | None], list[str]]:
    """Export the models in float and time them in interleaved rounds; the first is what the others are compared
    with.

    Returns for each a row of plain JSON (median_ms, ratio, low, high, verdict), or None for all and a note where
    one cannot be exported or run.
    """
    from paretune.export import export_onnx, save, strip
    from paretune.measure import latency

    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        try:
            files = [
                save(strip(export_onnx(model.cpu().eval(), task.inputs()).graph), Path(folder) / f"{index}.onnx")
                for index, model in enumerate(models)
            ]
            seen = latency(files, target, seconds=SECONDS, inputs=task.inputs())
        except ParetuneError as error:
            return [None] * len(models), [f"the rounds were not timed: {error}"]
    return [
        {
            "median_ms": one.median_ms,
            "ratio": one.ratio,
            "low": one.ratio_low,
            "high": one.ratio_high,
            "verdict": one.verdict,
        }
        for one in seen
    ], []
