"""Sensitivity: what the metric becomes when one group of channels alone loses more and more of them.

Every group is cut by itself, its least important channels first, at every ratio; nothing is trained. So it shows
which layers hurt, how much each can lose, and what that would save; what groups lose together is not the sum of
this.

Sources: Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, arXiv:1608.08710, section 3.2; the
    accuracy against ratio, layer by layer, was the first look of Distiller and NNI too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from paretune.decision import decide
from paretune.errors import InfeasibleError, InputError, TaskError, check_whole, is_number
from paretune.evaluation import evaluate
from paretune.prune._analysis import Analysis, analyze, only
from paretune.prune._capture.given import copied, given
from paretune.prune._channels import repaired
from paretune.prune._cut import Selection, cut
from paretune.prune._evidence.evidence import NEED_DATA, needs
from paretune.prune._ranking import Ranked, removed_units
from paretune.prune._selection.selection import lowest_first
from paretune.prune._selection.spec import ScoreSpec, resolve_score
from paretune.recipe import Context
from paretune.train._compute import Compute

if TYPE_CHECKING:
    from paretune.measurement import Evaluation
    from paretune.task import Task

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
SAMPLES = 1000
SCORED = 512
"""Training samples for scores that need data."""


@dataclass(frozen=True)
class SensitivityPoint:
    """One group at one ratio; what it saves is of this cut alone."""

    ratio: float
    """Of the group's channels, removed."""
    width: int
    """Channels of its first layer that are left."""
    value: float
    low: float
    """Ends of the metric's 95 % interval."""
    high: float
    drop: float
    """Against the whole model, positive = worse: points where the metric is a fraction of samples, else
    percent."""
    drop_low: float
    """Ends of the 95 % interval of the drop, paired over samples."""
    drop_high: float
    macs: float
    """Part of the model's multiply-accumulates that goes."""
    params: float
    """Part of the model's parameters that goes."""


@dataclass(frozen=True)
class GroupSensitivity:
    """One group of channels at every ratio."""

    group: str
    structure: str
    width: int
    macs: float
    """Part of the model's multiply-accumulates that goes with all of its channels that can."""
    params: float
    points: tuple[SensitivityPoint, ...]


@dataclass(frozen=True)
class Sensitivity:
    """Every group that can be cut, in the order of the graph."""

    baseline: Evaluation
    groups: tuple[GroupSensitivity, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON: metric, n, and groups with their points."""
        metric = self.baseline.to_json()
        groups = [asdict(group) | {"points": [asdict(p) for p in group.points]} for group in self.groups]
        return {"metric": metric, "groups": groups, "notes": list(self.notes)}


def sensitivity(
    model: nn.Module,
    task: Task,
    *,
    ratios: Sequence[float] = RATIOS,
    score: ScoreSpec | None = None,
    samples: int = SAMPLES,
    repair: int = 0,
    protect: Iterable[str] = (),
    structures: Iterable[str] = (),
    context: Context | None = None,
) -> Sensitivity:
    """Cut every group of channels alone, at every ratio, and evaluate on validation data; the model is not
    changed.

    ratios: fractions of a group's channels to remove, in (0, 1); one that leaves a group with no channel is left
        out.
    score: how channels are ranked, as `prune.channels` takes it.
    samples: of the validation data, the first so many; the intervals say what fewer cost.
    repair: training samples on which kept weights make up for what went, in closed form; 0 shows the bare cut.
    protect, structures: as `prune.channels` takes them.
    context: seed and device; `emit("measuring", ...)` tells how far it is.
    """
    asked = _checked(ratios)
    check_whole("prune.sensitivity: samples", samples)
    check_whole("prune.sensitivity: repair", repair, least=0)
    if task.val is None:
        raise TaskError(
            "prune.sensitivity evaluates on validation data, and the task has none: give Task(val=...)"
        )
    context = context or Context()
    analysis = only(analyze(copied(given(model)).eval(), task.inputs()), structures)
    seeing = score is None and task.train is not None
    ranked, unknown = lowest_first(
        analysis, score=score, protect=protect, samples=SCORED, seed=context.seed,
        data=task.data("train") if seeing or _needs_data(score) else None, loss=task.loss,
    )  # fmt: skip
    if not ranked and not unknown:
        raise InfeasibleError("prune.sensitivity: all channels are protected; protect fewer")
    baseline = _evaluated(analysis.model, task, samples, context)
    jobs = [(one, count) for one in ranked for count in _counts(one, asked)]
    points: dict[int, list[SensitivityPoint]] = {id(one): [] for one in ranked}
    for done, (one, count) in enumerate(jobs, start=1):
        points[id(one)].append(_point(analysis, one, count, baseline, task, samples, repair, context))
        context.emit("measuring", {"what": "sensitivity", "done": done, "total": len(jobs)})
    return Sensitivity(
        baseline,
        tuple(_group(analysis, one, tuple(points[id(one)])) for one in ranked),
        tuple(f"{group.label} was left out: {why}" for group, why in unknown),
    )


def _checked(ratios: Sequence[float]) -> list[float]:
    values: list[float] = list(ratios) if isinstance(ratios, Iterable) else [ratios]
    wrong = [value for value in values if not (is_number(value) and 0 < value < 1)]
    if wrong or not values:
        raise InputError(
            f"prune.sensitivity: ratios={ratios!r} must be fractions to remove, above 0 and below 1: [0.25, 0.5]"
        )
    return sorted(set(values))


def _needs_data(score: ScoreSpec | None) -> bool:
    return score is not None and any(name in NEED_DATA for name in needs(resolve_score(score)))


def _counts(ranked: Ranked, ratios: Sequence[float]) -> list[int]:
    """Return how many bundles go at each ratio, each number once, as far as the group goes."""
    counts = [math.floor(ratio * ranked.size + 1e-9) for ratio in ratios]
    return [count for count in dict.fromkeys(counts) if 0 < count <= len(ranked.bundles)]


def _point(
    analysis: Analysis,
    ranked: Ranked,
    count: int,
    baseline: Evaluation,
    task: Task,
    samples: int,
    repair: int,
    context: Context,
) -> SensitivityPoint:
    removed = removed_units([ranked], [count])
    selection = Selection(removed, {}, units=analysis.couplings.units.count)
    pruned = cut(analysis, selection)
    if repair:
        pruned = repaired(analysis, selection, pruned, task.data("train"), samples=repair, seed=context.seed)
    seen = _evaluated(pruned.model, task, samples, context)
    keep, drop = analysis.keep(removed), decide(baseline, seen, 0.0)
    return SensitivityPoint(
        ratio=count / ranked.size,
        width=ranked.width - count * ranked.step,
        value=seen.value,
        low=seen.low,
        high=seen.high,
        drop=drop.drop,
        drop_low=drop.low,
        drop_high=drop.high,
        macs=1 - analysis.macs_of(keep) / max(1, analysis.macs),
        params=1 - analysis.params_of(keep) / max(1, analysis.params),
    )


def _group(analysis: Analysis, ranked: Ranked, points: tuple[SensitivityPoint, ...]) -> GroupSensitivity:
    keep = analysis.keep(removed_units([ranked], [len(ranked.bundles)]))
    return GroupSensitivity(
        group=ranked.title,
        structure=ranked.group.structure,
        width=ranked.width,
        macs=1 - analysis.macs_of(keep) / max(1, analysis.macs),
        params=1 - analysis.params_of(keep) / max(1, analysis.params),
        points=points,
    )


def _evaluated(model: nn.Module, task: Task, samples: int, context: Context) -> Evaluation:
    compute = Compute(context.device)
    run = compute.run(compute.place(model).eval())
    seen = evaluate(run, task.data("val"), task.resolved_metric(), limit=samples)
    model.cpu()
    return seen
