"""Iterative pruning: cut, let a teacher help the rest to recover, and go again from what came out.

A round makes one cut or several, then trains: its recovery is a training of its own, with its own warm-up and
    schedule (learning-rate rewinding, Renda et al.), under the teacher that was asked for. It ends with the
    epoch that is best on validation data, and the next round starts from it. Any step that prunes can be the
    cut, any that trains the recovery; they are given as a recipe writes them, and found by their names.

Sources: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015,
arXiv:1506.02626 (cut and retrain); Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019,
arXiv:1803.03635 (`rewind_weights`); Renda, Frankle and Carbin, "Comparing rewinding and fine-tuning in neural
network pruning", ICLR 2020, arXiv:2003.02389; Mirzadeh et al., "Improved knowledge distillation via teacher
assistant", AAAI 2020, arXiv:1902.03393 (a teacher between the two).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import nn

from paretune.checkpoint import CorruptCheckpoint, State, digest
from paretune.cuts import Cuts, replay
from paretune.decision import decide
from paretune.errors import TaskError
from paretune.evaluation import evaluate
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._iterative.plan import Rounds, StepSpec, cut_in_half, four_epochs
from paretune.prune._iterative.teachers import teacher_of
from paretune.prune._iterative.timing import timed
from paretune.prune._sparse.weights import counts_of
from paretune.recipe import Context, Step, StepResult
from paretune.train import recalibrate_batch_norm
from paretune.train._compute import Compute

if TYPE_CHECKING:
    from paretune.measurement import Evaluation
    from paretune.task import Task


@dataclass(frozen=True)
class Iterated:
    """The model of the round that was kept, and how every round went."""

    model: nn.Module
    cuts: tuple[Cuts, ...]
    """To be replayed in this order."""
    rounds: tuple[dict[str, Any], ...]
    """A row for the model that was given, one for each round, and one for `one_shot` where it was asked for."""
    kept: int
    """The round that the model is of; 0, the model as it was given, where none held `max_drop`."""
    notes: tuple[str, ...] = ()
    curve: list[dict[str, Any]] = field(default_factory=list)
    """The epochs of all recoveries, one after the other."""


def iterative(
    model: nn.Module,
    task: Task,
    *,
    prune: StepSpec | None = None,
    recover: StepSpec | None = None,
    rounds: int = Rounds.rounds,
    cuts: int = Rounds.cuts,
    shrink: float = Rounds.shrink,
    amounts: Sequence[float | str] | None = None,
    teacher: str = Rounds.teacher,
    rewind_weights: bool = Rounds.rewind_weights,
    max_drop: float | None = Rounds.max_drop,
    keep: str = Rounds.keep,
    one_shot: bool = Rounds.one_shot,
    latency: bool = Rounds.latency,
    context: Context | None = None,
) -> Iterated:
    """Prune a copy of a model in rounds, each with a recovery; the model given is not changed.

    The fields are those of `Iterative`, which explains them. prune, recover: steps as a recipe writes them; None
    cuts channels to half of the multiply-accumulates and distils for four epochs a round.
    context: seed, device, target; `teacher` is the full model, else the one given is; with a `folder` a run that
        was killed goes on in the round that it was in.
    """
    plan = Rounds(
        prune=prune or cut_in_half(), recover=recover or four_epochs(), rounds=rounds, cuts=cuts, shrink=shrink,
        amounts=None if amounts is None else tuple(amounts), teacher=teacher, rewind_weights=rewind_weights,
        max_drop=max_drop, keep=keep, one_shot=one_shot, latency=latency,
    )  # fmt: skip
    require_values(given(model))
    model = copied(model)
    _check(plan, task)
    start = _Start(model, task, context or Context())
    first = start.judged(model, State(model.state_dict()), {"round": 0})
    turns = [first, *_rounds(plan, start, first, "round")]
    beside = _rounds(plan.at_once(), start, first, "one-shot") if one_shot else []
    kept, notes = _kept(plan, turns)
    rows = [turn.record for turn in turns] + [turn.record | {"round": "one-shot"} for turn in beside]
    if latency:
        times, missing = timed([turn.model for turn in (*turns, *beside)], task, start.context.target)
        rows, notes = [row | {"latency": seen} for row, seen in zip(rows, times, strict=True)], [*notes, *missing]
    for row in rows:
        start.context.emit("round", row)
    return Iterated(
        model=copy.deepcopy(turns[kept].model).eval(),
        cuts=turns[kept].state.cuts,
        rounds=tuple(rows),
        kept=kept,
        notes=(*dict.fromkeys(note for turn in turns for note in turn.state.notes), *notes),
        curve=[epoch for turn in turns for epoch in turn.state.details.get("curve", ())],
    )


@dataclass(frozen=True)
class _Turn:
    """What a round made."""

    model: nn.Module
    state: State
    """Weights, and all cuts since the model that was given."""
    record: dict[str, Any]
    """Plain JSON."""
    evaluation: Evaluation | None


@dataclass(frozen=True)
class _Start:
    """Where the rounds begin."""

    model: nn.Module
    task: Task
    context: Context

    def judged(self, model: nn.Module, state: State, record: dict[str, Any]) -> _Turn:
        """Return a model with what it reaches and costs."""
        from paretune.measure import macs

        seen = self.evaluated(model)
        told = None if seen is None else seen.to_json()
        counts = {"macs": macs(model.cpu(), self.task.inputs()), **counts_of(model)}
        return _Turn(model.cpu().eval(), state, record | {"metric": told, **counts}, seen)

    def evaluated(self, model: nn.Module) -> Evaluation | None:
        """Return the metric on the validation data, None where there are none."""
        if self.task.val is None:
            return None
        compute = Compute(self.context.device)
        return evaluate(
            compute.run(compute.place(model).eval()), self.task.data("val"), self.task.resolved_metric()
        )


def _rounds(plan: Rounds, start: _Start, first: _Turn, name: str) -> list[_Turn]:
    """Do the rounds one after the other, each from where the last one ended, until one loses too much."""
    turns: list[_Turn] = []
    for number, steps in enumerate(plan.steps(), start=1):
        teacher = start.context.teacher
        guide = None if teacher is None else digest(teacher.state_dict())
        key = hashlib.sha256(
            json.dumps([digest(first.state.tensors), guide, plan.to_json(), start.context.seed]).encode()
        )
        saved = _Saved(start, f"{name}-{number:02}-{key.hexdigest()[:16]}")
        turns.append(saved.load() or saved.save(_round(plan, start, steps, number, first, turns, saved.folder)))
        if not _holds(plan, first, turns[-1]):
            break
    return turns


def _round(
    plan: Rounds, start: _Start, steps: Sequence[Step], number: int, first: _Turn, turns: Sequence[_Turn],
    folder: Path | None,
) -> _Turn:  # fmt: skip
    """Cut, rewind where that is asked for, and recover under the teacher of this round."""
    began, context, task = time.perf_counter(), start.context, start.task
    before = turns[-1] if turns else first
    student, cuts, notes = copy.deepcopy(before.model), before.state.cuts, list[str]()
    for index, step in enumerate(steps):
        own = dataclasses.replace(context, folder=folder and folder / f"cut-{index + 1}", whole=start.model)
        made = step.apply(student, task, own)
        student, cuts, notes = made.model, (*cuts, *made.cuts), [*notes, *made.notes]
    if plan.rewind_weights:
        student = _rewound(start.model, student, cuts)
        recalibrate_batch_norm(
            student, task.data("train"), augment=task.augment, seed=context.seed, device=context.device
        )
    cut = start.evaluated(student)
    up = task.resolved_metric().greater_is_better
    full = context.teacher if context.teacher is not None else start.model
    teacher = teacher_of(plan.teacher, full, [(turn.model, _value(turn)) for turn in turns], up=up)
    recovered = plan.recovery().apply(
        student.cpu(), task, dataclasses.replace(context, teacher=teacher, folder=folder and folder / "recover")
    )
    record = {
        "round": number,
        "amounts": [plan.amount(step) for step in steps],
        "teacher": plan.teacher if turns else "full",
        "before": None if cut is None else cut.value,
        "seconds": time.perf_counter() - began,
    }
    cuts = (*cuts, *recovered.cuts)
    details = {"curve": recovered.details.get("curve", []), "record": record}
    state = State(recovered.model.state_dict(), cuts, (*notes, *recovered.notes), details)
    return start.judged(recovered.model, state, record)


def _rewound(start: nn.Module, student: nn.Module, cuts: Sequence[Cuts]) -> nn.Module:
    """Return the cut model with the weights that it came in with; what cuts made anew (merged layers) stays."""
    model = copy.deepcopy(start)
    for manifest in cuts:
        model = replay(model, manifest)
    places = {gone.module for manifest in cuts for gone in manifest.replaced}
    made = {
        name: tensor
        for name, tensor in student.state_dict().items()
        if any(name.startswith(f"{place}.") for place in places)
    }
    model.load_state_dict(model.state_dict() | made)
    return model


@dataclass(frozen=True)
class _Saved:
    """A round that is done, on disk; without a folder nothing is kept."""

    start: _Start
    name: str

    @property
    def folder(self) -> Path | None:
        """Where the steps of this round keep their checkpoints."""
        return self.start.context.folder and self.start.context.folder / self.name

    @property
    def _file(self) -> Path | None:
        return self.start.context.folder and self.start.context.folder / f"{self.name}.safetensors"

    def load(self) -> _Turn | None:
        """Return the round, if it was finished before."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            state = State.load(self._file)
        except CorruptCheckpoint as error:
            self.start.context.emit("warning", {"text": f"{error}; this round is done again"})
            return None
        return self.start.judged(state.onto(copy.deepcopy(self.start.model)), state, state.details["record"])

    def save(self, turn: _Turn) -> _Turn:
        """Write a finished round, and drop the checkpoints of its steps."""
        if self._file is not None:
            turn.state.save(self._file)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        return turn


def _check(plan: Rounds, task: Task) -> None:
    asked = "max_drop" if plan.max_drop is not None else "keep='best'" if plan.keep == "best" else ""
    if asked and task.val is None:
        raise TaskError(
            f"prune.iterative: {asked} needs validation data, and the task has none: give Task(val=...)"
        )


def _holds(plan: Rounds, first: _Turn, turn: _Turn) -> bool:
    """Say whether a round lost no more than it may, on validation data."""
    drop = _drop(first, turn)
    return plan.max_drop is None or drop is None or drop <= plan.max_drop


def _drop(first: _Turn, turn: _Turn) -> float | None:
    if first.evaluation is None or turn.evaluation is None:
        return None
    return decide(first.evaluation, turn.evaluation, 0.0).drop


def _kept(plan: Rounds, turns: Sequence[_Turn]) -> tuple[int, list[str]]:
    """Return which turn is kept, and what the user should know of it."""
    held = [index for index, turn in enumerate(turns) if index and _holds(plan, turns[0], turn)]
    notes = []
    if len(held) < len(turns) - 1:
        drop = _drop(turns[0], turns[-1])
        notes.append(
            f"stopped after round {len(turns) - 1} of {len(plan.steps())}: it lost {drop:.2f}, more than "
            f"max_drop={plan.max_drop:g}, on validation data"
        )
    if not held:
        return 0, [*notes, "no round held max_drop: the model is as it was given"]
    values = [(_value(turns[index]), index) for index in held]
    sign = -1 if (seen := turns[0].evaluation) is not None and not seen.metric.greater_is_better else 1
    known = [(sign * value, index) for value, index in values if value is not None]
    return max(known)[1] if plan.keep == "best" and known else held[-1], notes


def _value(turn: _Turn) -> float | None:
    return None if turn.evaluation is None else turn.evaluation.value


@final
@dataclass(frozen=True, kw_only=True)
class Iterative(Rounds, Step):
    """Prune in rounds, each with a recovery by distillation or training, to where a cut shall end."""

    uses_teacher: ClassVar[bool] = True
    uses_data: ClassVar[tuple[str, ...]] = ("train", "val")

    @property
    def uses_target(self) -> bool:
        """Whether one of the cuts depends on timings."""
        return any(step.uses_target for steps in self.steps() for step in steps)

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Do the rounds; `details` has a row for each, and the curve of all epochs."""
        made = iterative(model, task, **self.parameters(), context=context)
        before, after = made.rounds[0], made.rounds[made.kept]
        counts = ("macs", "params", "nonzero")
        context.emit(
            "pruned",
            {"before": {k: before[k] for k in counts}, "after": {k: after[k] for k in counts}, "widths": {}},
        )
        return StepResult(
            made.model, made.cuts, made.notes,
            {"rounds": list(made.rounds), "kept": made.kept, "curve": made.curve},
        )  # fmt: skip
