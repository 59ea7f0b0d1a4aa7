"""The short ladder that `optimize` climbs: INT8 alone, then channels removed at a ratio found by bisection.

What a shape costs does not depend on its weights, so latency and size are probed on pruned, untrained,
quantized models, seconds each; only the ratio that they settle is trained. Every probe, plan and measurement is
recorded in the run's journal and read back by a resumed run, which therefore takes the same way.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from paretune import summary
from paretune.assessment import measure
from paretune.errors import InfeasibleError, SurgeryError, VerificationError
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Constraints, Recipe, Step, amount

if TYPE_CHECKING:
    from paretune.stages import Flow, Stage

MOST = 0.9
"""The largest ratio of channels removed that is tried."""
PRECISION = 0.06
"""Bisection ends when the ratio is known this well."""
MARGIN = 0.97
"""A probe must meet a bound with this to spare: the trained model is timed anew, with its own noise."""


@dataclass(frozen=True)
class Settings:
    """What `optimize` was asked for; a resumed run must ask the same."""

    seconds: float
    constraints: Constraints
    rungs: int = 3
    """Models trained at most."""

    def to_json(self) -> str:
        """Return the settings as the text of `optimize.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `to_json` wrote."""
        content = json.loads(text)
        return cls(**{**content, "constraints": Constraints(**content["constraints"])})


def quantized_only(frame: Recipe) -> Recipe:
    """Return the first rung: INT8 and nothing else."""
    return dataclasses.replace(frame, steps=_quantize())


def climb(flow: Flow, baseline: Stage, first: Recipe, settings: Settings) -> tuple[list[Stage], list[summary.Row]]:
    """Return the stages and rows that were measured, the baseline first."""
    began = time.monotonic()
    stages, rows = [baseline], list[summary.Row]()
    try:
        for stage in _rungs(flow, baseline, first, settings, rows, began):
            if pair := _measured(flow, baseline, stage):
                stages.append(stage)
                rows += pair if not rows else pair[1:]
    except (InfeasibleError, SurgeryError) as error:
        flow.folder.emit("warning", {"text": f"no channels can be removed, so INT8 is all there is: {error}"})
    return stages, rows or measure(flow, [baseline])


def _measured(flow: Flow, baseline: Stage, stage: Stage) -> list[summary.Row]:
    """Return the rows of baseline and stage; none, and a warning, where a file is wrong: the others count."""
    try:
        return measure(flow, [baseline, stage])
    except VerificationError as error:
        flow.folder.emit("warning", {"text": f"'{stage.name}' is left out: {error}"})
        return []


def _rungs(
    flow: Flow, baseline: Stage, first: Recipe, settings: Settings, rows: list[summary.Row], began: float
) -> Iterator[Stage]:
    """Yield INT8 alone, then each pruned, trained and quantized model; `rows` grows by each one's measurement."""
    constraints = settings.constraints
    yield next(flow.walk(baseline, first.steps, only_last=True, name="int8"))
    if _asks_for_speed(constraints) and _held(rows, constraints):
        return
    if flow.task.train is None:
        flow.folder.emit("warning", {"text": "without training data nothing is pruned: a cut must be trained"})
        return
    ratio, int8 = _least_ratio(flow, baseline, constraints)
    low, high = 0.0, MOST
    for rung in range(settings.rungs if ratio is not None else 0):
        assert ratio is not None
        plan = _plan(flow, baseline, ratio, rung, settings, time.monotonic() - began)
        if plan["epochs"] < 1:
            flow.folder.emit("note", {"text": "the budget is spent: no further model is trained"})
            return
        steps = (_channels(ratio), _recover(flow, plan["epochs"]), *(_quantize() if int8 else ()))
        yield next(flow.walk(baseline, steps, only_last=True, name=f"pruned-{ratio:.3f}"))
        if _asks_for_speed(constraints):
            return  # the least ratio that is fast enough: a larger one loses more, a smaller one is too slow
        low, high = (ratio, high) if _held(rows, constraints) else (low, ratio)
        ratio = round((low + high) / 2, 3)


def _held(rows: list[summary.Row], constraints: Constraints) -> bool:
    """Say whether the last model measured holds the constraints."""
    return len(rows) > 1 and not summary.violations(rows[-1], rows[0], constraints)


def _least_ratio(flow: Flow, baseline: Stage, constraints: Constraints) -> tuple[float | None, bool]:
    """Return (the least ratio whose shape is fast and small enough, whether in INT8); None where none is.

    Where no INT8 shape is, float ones are tried: in a tiny model the conversions can cost more than INT8 saves.
    With nothing asked of speed and size the ratio is 0.5.
    """
    if not _asks_for_speed(constraints):
        return 0.5, True
    for int8 in (True, False):
        if not _fits(_probe(flow, baseline, MOST, int8), constraints):
            continue
        low, high = 0.0, MOST
        while high - low > PRECISION:
            middle = round((low + high) / 2, 3)
            fits = _fits(_probe(flow, baseline, middle, int8), constraints)
            low, high = (low, middle) if fits else (middle, high)
        return high, int8
    text = (
        f"even with {MOST:.0%} of the channels removed, in INT8 or float, the model is not fast and small enough"
    )
    flow.folder.emit("warning", {"text": text})
    return None, True


def _asks_for_speed(constraints: Constraints) -> bool:
    return constraints.max_latency is not None or constraints.max_size is not None


def _probe(flow: Flow, baseline: Stage, ratio: float, int8: bool) -> dict[str, Any]:
    """Return {ratio, int8, bytes, size} of an untrained shape, and {median_ms, latency} where that is bounded."""
    from paretune.measure import latency

    for event in flow.folder.recorded("probe"):
        if (event["ratio"], event["int8"]) == (ratio, int8):
            return event
    steps = (_channels(ratio, repair=0), *(_quantize(calibration=16) if int8 else ()))
    stage = next(flow.walk(baseline, steps, only_last=True, name=f"probe-{ratio:.3f}"))
    size = stage.artifact.stat().st_size
    event = {"ratio": ratio, "int8": int8, "bytes": size, "size": size / baseline.artifact.stat().st_size}
    if flow.recipe.constraints.max_latency is not None:
        files = [baseline.artifact, stage.artifact]
        timing = latency(files, flow.recipe.target, seconds=1.0, inputs=flow.task.inputs())[1]
        event |= {"median_ms": timing.median_ms, "latency": timing.ratio}
    flow.folder.record("probe", event)
    for path in (stage.artifact, stage.float_artifact):
        path.unlink(missing_ok=True)
    return event


def _fits(probe: dict[str, Any], constraints: Constraints) -> bool:
    latency, size = constraints.max_latency, constraints.max_size
    if latency is not None:
        limit, relative = amount(latency, LATENCY_UNITS, "max_latency")
        if probe["latency" if relative else "median_ms"] > limit * MARGIN:
            return False
    if size is not None:
        limit, relative = amount(size, SIZE_UNITS, "max_size")
        if probe["size" if relative else "bytes"] > limit:
            return False
    return True


def _plan(
    flow: Flow, baseline: Stage, ratio: float, rung: int, settings: Settings, spent: float
) -> dict[str, Any]:
    """Return {rung, ratio, epochs}: as many epochs as this rung's share of the budget pays for, at most 60.

    The first rung gets one epoch whatever is left, since a cut that is not trained tells nothing.
    """
    for event in flow.folder.recorded("plan"):
        if event["rung"] == rung:
            return event
    left = 0.85 * (settings.seconds - spent)  # the rest is for export, verification and timing
    share = left if _asks_for_speed(settings.constraints) else left / (settings.rungs - rung)
    epoch = flow.seconds_per_epoch(baseline)
    epochs = min(60, max(int(share / epoch), 0 if rung else 1))
    event = {"rung": rung, "ratio": ratio, "epochs": epochs, "seconds_per_epoch": epoch}
    flow.folder.record("plan", event)
    return event


def _recover(flow: Flow, epochs: int) -> Step:
    """Return the step that trains a cut model: distillation where classes are told apart, else the task's loss."""
    from paretune.distill import Distill
    from paretune.train import Train

    return Distill(epochs=epochs) if flow.classifies() else Train(epochs=epochs)


def _channels(ratio: float, repair: int = 512) -> Step:
    from paretune.prune import Channels

    return Channels(ratio=ratio, multiple=8, repair=repair, recalibrate=repair)


def _quantize(calibration: int = 256) -> tuple[Step, ...]:
    from paretune.quantize import Static

    return (Static(calibration=calibration),)


__all__: Sequence[str] = ("Settings", "climb", "quantized_only")
