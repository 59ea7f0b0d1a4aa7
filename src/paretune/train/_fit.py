"""The fit loop, read from top to bottom: batches, loss, gradient, clip, step; validate, checkpoint, stop.

Everything random is fixed by an index: the order of epoch e by (seed, e), dropout and augmentation of a batch by
(seed, e, batch). So a training that was killed goes on from its last epoch and ends, on a CPU with the same
number of threads, with the very bits of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paretune.checkpoint import digest
from paretune.data import Batch, tensors_of
from paretune.errors import DataError, RunError, TaskError
from paretune.evaluation import evaluate
from paretune.masks import held, masked
from paretune.recipe import Context
from paretune.task import Task
from paretune.train._checkpoints import Checkpoints, Progress, named_tensors
from paretune.train._clip import clip_gradients
from paretune.train._compute import TRIAL_STEPS, Compute, Objective, check_device, choose
from paretune.train._objective import task_objective
from paretune.train._optimizers import make_optimizer
from paretune.train._schedule import rate
from paretune.train._seeding import generator
from paretune.train._training import Training

EachStep = Callable[[int, int], None]
WORTH_A_TRIAL = 100
"""Trainings of fewer optimizer steps take the default layout and precision untimed."""
SECONDS_BETWEEN_EVENTS = 0.1


@dataclass(frozen=True)
class FitResult:
    """A trained model and how it got there."""

    model: nn.Module
    """The model given, trained in place: in eval mode, on the CPU, contiguous."""
    curve: list[dict[str, Any]]
    """One entry per epoch: epoch, epochs, loss, terms, lr, metric, value, best, seconds; plain JSON."""
    best_epoch: int
    """The epoch, counted from 1, whose weights these are."""
    seconds: float
    """Of all epochs, those before a resume included."""
    precision: str
    layout: str
    stopped: bool
    """True where validation stopped it before its last epoch."""
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds a step of each precision and layout that was tried; empty where none was."""

    def details(self) -> dict[str, Any]:
        """Return everything but model and notes as plain JSON, for a step's result."""
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "notes")
        }


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first epoch to the last."""

    model: nn.Module
    task: Task
    training: Training
    objective: Objective
    keep_best: bool
    context: Context
    checkpoints: Checkpoints
    each_step: EachStep | None
    size: int
    """Samples in a batch."""
    steps: int
    """Batches in an epoch."""
    compute: Compute = field(default_factory=Compute)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, Any]:
        """What `auto` chose, for the checkpoint."""
        return {"precision": self.compute.precision, "layout": self.compute.layout, "timings": self.timings}


def fit(
    model: nn.Module,
    task: Task,
    *,
    epochs: int = Training.epochs,
    optimizer: Literal["adamw", "adam", "sgd"] = Training.optimizer,
    lr: float = Training.lr,
    weight_decay: float = Training.weight_decay,
    momentum: float = Training.momentum,
    warmup: float = Training.warmup,
    schedule: Literal["cosine", "constant"] = Training.schedule,
    clip_norm: float | None = Training.clip_norm,
    clip_value: float | None = Training.clip_value,
    label_smoothing: float = Training.label_smoothing,
    patience: int | None = Training.patience,
    batch_size: int | None = Training.batch_size,
    precision: Literal["auto", "float32", "bfloat16"] = Training.precision,
    layout: Literal["auto", "contiguous", "channels_last"] = Training.layout,
    objective: Objective | None = None,
    objective_key: str = "",
    companions: Sequence[nn.Module] = (),
    each_step: EachStep | None = None,
    keep_best: bool = True,
    context: Context | None = None,
) -> FitResult:
    """Train a model in place and return it with its curve; `Training` explains the fields up to `layout`.

    objective: (model, inputs, target) -> loss terms by name, summed; the task's loss where it is None. It runs
        under autocast, so outputs may be bfloat16: compute losses in float32.
    objective_key: what the objective is, as text; a checkpoint with another key is not resumed from.
    companions: modules that the objective calls (a teacher), moved and laid out like the model.
    each_step: called after every step of the optimizer with (step, steps): how many were made, of how many.
        What it does must follow from these and from the tensors of the model, so that a training can be resumed.
    keep_best: end with the weights of the best epoch on `task.val`; without validation data, of the last.
    context: seed, device, where events go, and the folder of the checkpoints. A checkpoint of this very training
        found there is resumed from.
    Raises RunError, with step, epoch and loss term, where a loss or a gradient is not finite.
    """
    training = Training(
        epochs=epochs, optimizer=optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum, warmup=warmup,
        schedule=schedule, clip_norm=clip_norm, clip_value=clip_value, label_smoothing=label_smoothing,
        patience=patience, batch_size=batch_size, precision=precision, layout=layout,
    )  # fmt: skip
    context = context or Context()
    _check(task, training, context)
    size, steps, notes = _plan(model, task, training)
    identity = {
        "training": dataclasses.asdict(training), "seed": context.seed, "objective": objective_key,
        "keep_best": keep_best, "masked": list(masked(model)),
        "weights": [digest(named_tensors(module)) for module in (model, *companions)],
    }  # fmt: skip
    checkpoints = Checkpoints(context.folder, identity, lambda text: context.emit("warning", {"text": text}))
    objective = objective or task_objective(task, training.label_smoothing)
    run = _Run(model, task, training, objective, keep_best, context, checkpoints, each_step, size, steps)

    found = checkpoints.newest()
    if found:
        how = found.content["how"]
        compute = Compute(context.device, how["precision"], how["layout"])
        run = dataclasses.replace(run, compute=compute, timings=how["timings"])
    else:
        run = _with_fastest_compute(run, companions)
    for module in (model, *companions):
        run.compute.place(module)
    stepper = make_optimizer(
        model, training.optimizer, lr=training.lr, weight_decay=training.weight_decay, momentum=training.momentum
    )
    progress = found.restore(model, stepper) if found else Progress()
    if not found:
        checkpoints.save(model, stepper, progress, run.how)  # epoch 0: what `auto` chose survives a kill

    with held(model):
        while len(progress.curve) < training.epochs and not progress.stopped:
            started = time.perf_counter()
            record = _epoch(run, stepper, len(progress.curve))
            record |= _validate(run)
            _judge(run, progress, record)
            progress.curve.append(record | {"best": progress.best, "seconds": time.perf_counter() - started})
            checkpoints.save(model, stepper, progress, run.how)
            context.emit("epoch", progress.curve[-1])

    if progress.best_weights:
        model.load_state_dict(progress.best_weights)
    return FitResult(
        model=Compute().place(model).eval(),
        curve=progress.curve,
        best_epoch=progress.best_epoch if progress.best_weights else len(progress.curve),
        seconds=sum(record["seconds"] for record in progress.curve),
        precision=run.compute.precision,
        layout=run.compute.layout,
        stopped=progress.stopped,
        notes=tuple(notes),
        timings=run.timings,
    )


def _epoch(run: _Run, optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, Any]:
    """Train one pass and return what it saw: mean loss and terms, and the last learning rate."""
    training, samples, lr, announced = run.training, 0, 0.0, 0.0
    sums: dict[str, float] = {}
    run.model.train()
    for index, (inputs, target) in enumerate(_batches(run, epoch)):
        lr = rate(
            epoch * run.steps + index,
            training.epochs * run.steps,
            lr=training.lr,
            warmup=round(training.warmup * run.steps),
            schedule=training.schedule,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        with run.compute.autocast():
            terms = run.objective(run.model, run.compute.put(inputs), run.compute.put(target))
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            _check_finite(run, value, f"the loss term '{name}'", epoch, index)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(run.model.parameters(), norm=training.clip_norm, value=training.clip_value)
        _check_finite(run, norm, "the norm of the gradient", epoch, index)
        optimizer.step()
        if run.each_step is not None:
            run.each_step(epoch * run.steps + index + 1, training.epochs * run.steps)

        count = len(tensors_of(inputs)[0])
        samples += count
        sums = {name: sums.get(name, 0.0) + value * count for name, value in values.items()}
        if time.monotonic() - announced > SECONDS_BETWEEN_EVENTS:
            announced = time.monotonic()
            event = {"epoch": epoch + 1, "epochs": training.epochs, "done": index + 1, "total": run.steps}
            run.context.emit("batch", event | {"loss": sum(values.values())})
    means = {name: total / samples for name, total in sums.items()}
    record: dict[str, Any] = {"epoch": epoch + 1, "epochs": training.epochs}
    return record | {"loss": sum(means.values()), "terms": means, "lr": lr}


def _batches(run: _Run, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch, augmented, in the order that (seed, epoch) fixes."""
    seed, augment = run.context.seed, run.task.augment
    batches = run.task.data("train").batches(batch_size=run.size, shuffle=(seed, epoch))
    for index, (inputs, target) in enumerate(islice(batches, run.steps)):
        yield (augment(inputs, generator(seed, epoch, index)) if augment else inputs), target


def _check_finite(run: _Run, value: float, what: str, epoch: int, index: int) -> None:
    if not math.isfinite(value):
        step = epoch * run.steps + index + 1
        kept = f"{run.checkpoints.last()} is kept. " if run.checkpoints.last() else ""
        raise RunError(
            f"training stopped at step {step} (epoch {epoch + 1} of {run.training.epochs}, batch {index + 1} of "
            f"{run.steps}): {what} is {value}. {kept}Lower lr={run.training.lr:g}, set clip_norm=1, or look for "
            "NaN in the data"
        )


def _validate(run: _Run) -> dict[str, Any]:
    """Return the metric on the validation data, None where there are none or it is not a number."""
    metric, value = run.task.resolved_metric(), None
    if run.task.val is not None:
        run.model.eval()
        value = evaluate(run.compute.run(run.model), run.task.data("val"), metric).value
    return {"metric": metric.name, "value": value if value is not None and math.isfinite(value) else None}


def _judge(run: _Run, progress: Progress, record: dict[str, Any]) -> None:
    """Note whether this epoch is the best on validation data, and whether to stop."""
    value, epoch = record["value"], record["epoch"]
    sign = 1 if run.task.resolved_metric().greater_is_better else -1
    if value is not None and (progress.best is None or sign * value > sign * progress.best):
        progress.best, progress.best_epoch = value, epoch
        if run.keep_best:
            progress.best_weights = {name: tensor.clone() for name, tensor in named_tensors(run.model).items()}
    elif run.training.patience is not None and epoch - progress.best_epoch >= run.training.patience:
        progress.stopped = True


def _check(task: Task, training: Training, context: Context) -> None:
    check_device(context.device)
    if training.patience is not None and task.val is None:
        raise TaskError(
            f"patience={training.patience} needs validation data, and the task has none: give Task(val=...)"
        )


def _plan(model: nn.Module, task: Task, training: Training) -> tuple[int, int, list[str]]:
    """Return samples in a batch, batches in an epoch, and notes; batch norm cannot train on a batch of one."""
    data = task.data("train")
    size = training.batch_size or data.batch_size
    steps, rest = data.steps(size), len(data) % size
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return size, steps, []
    if min(size, len(data)) == 1:
        raise DataError("the model has batch norm, which cannot train on batches of one sample; raise batch_size")
    if rest == 1:
        text = f"the last batch of each epoch has a single of {len(data)} samples; batch norm cannot train on it"
        return size, steps - 1, [text + ", so it is left out"]
    return size, steps, []


def _with_fastest_compute(run: _Run, companions: Sequence[nn.Module]) -> _Run:
    """Time a few batches where the training is long enough for it to pay, else take the defaults."""
    precision, layout = run.training.precision, run.training.layout
    trial = list(islice(_batches(run, 0), TRIAL_STEPS))
    if run.training.epochs * run.steps < WORTH_A_TRIAL:
        precision = "float32" if precision == "auto" else precision
        layout = "contiguous" if layout == "auto" else layout
    compute, timings = choose(
        run.model, run.objective, trial,
        companions=companions, device=run.context.device, precision=precision, layout=layout,
    )  # fmt: skip
    return dataclasses.replace(run, compute=compute, timings=timings)
