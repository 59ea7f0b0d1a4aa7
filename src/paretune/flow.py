"""The whole flow: Task -> baseline -> steps -> export -> graph steps -> verify -> measure -> report.

`run` walks one recipe; every step's outcome is a candidate. `optimize` walks a short ladder of recipes until the
constraints hold. Both leave a run folder that a killed run goes on from.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from paretune import cache as caching
from paretune import ladder, summary
from paretune.assessment import confirm, measure
from paretune.errors import InputError
from paretune.recipe import Constraints, Context, Recipe
from paretune.result import Candidate, Result
from paretune.runfolder import RunFolder, open_run
from paretune.stages import Flow, Listener
from paretune.target import Target
from paretune.task import Task, load_task

if TYPE_CHECKING:
    from torch import nn


def run(
    recipe: Recipe,
    task: Task | None = None,
    *,
    out: str | Path,
    resume: bool = False,
    cache: bool = True,
    test: bool = True,
    emit: Listener | None = None,
) -> Result:
    """Walk a recipe on a task and measure what each step brought.

    The baseline is the task's model, or the trained one where the recipe begins with `train`. Candidates are
    compared on validation data; the best that holds the constraints is confirmed once on the test data.
    out: the run folder, created, or with `resume` gone on with. cache: share finished steps with other runs.
    test: False leaves the test data alone, for a candidate of a search. emit: (kind, fields) of what happens;
    without one, progress is shown on stderr.
    """
    if task is None:
        task = _task_of(recipe)
        recipe = dataclasses.replace(recipe, task=task.origin)  # found again from any working directory
    with (
        _shown(emit) as listen,
        open_run(out, {"recipe.yaml": recipe.to_yaml()}, resume=resume, listen=listen) as folder,
    ):
        flow = _begin(recipe, task, folder, cache)
        baseline = flow.baseline()
        stages = [baseline, *flow.walk(baseline, recipe.steps[len(baseline.steps) :])]
        rows = measure(flow, stages)
        best = summary.choose(rows, recipe.constraints)
        return _finish(flow, rows, confirm(flow, rows, stages, best) if test else best)


def optimize(
    task: Task,
    *,
    max_drop: float | None = None,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    max_flips: float | None = None,
    max_class_drop: float | None = None,
    budget: str | float = "20min",
    out: str | Path = "runs/optimize",
    target: Target | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    cache: bool = True,
    emit: Listener | None = None,
) -> Result:
    """Find a smaller, faster model of a trained one under constraints, within a budget of time.

    First INT8 alone; then channels removed, distilled from the original and quantized, at a ratio found by
    bisection. Shapes decide time and size, so the least ratio that meets `max_latency` and `max_size` is found
    before anything is trained, and only then its accuracy is asked for. What was measured is written to the run
    folder, and a resumed run reads it back, so that it goes the same way.
    """
    constraints = Constraints(
        max_drop=max_drop,
        max_latency=max_latency,
        max_size=max_size,
        max_flips=max_flips,
        max_class_drop=max_class_drop,
    )
    settings = ladder.Settings(seconds=summary.seconds(budget), constraints=constraints)
    first = ladder.quantized_only(
        Recipe(
            steps=(),
            task=task.origin,
            target=target or Target(),
            constraints=constraints,
            seed=seed,
            device=device,
        )
    )
    kept = {"recipe.yaml": first.to_yaml(), "optimize.json": settings.to_json()}
    with _shown(emit) as listen, open_run(out, kept, resume=resume, listen=listen) as folder:
        flow = _begin(first, task, folder, cache)
        baseline = flow.baseline()
        stages, rows = ladder.climb(flow, baseline, first, settings)
        best = confirm(flow, rows, stages, summary.choose(rows, constraints))
        return _finish(flow, rows, best)


def _finish(flow: Flow, rows: list[summary.Row], best: str | None) -> Result:
    """Write `summary.json` and the report, and return the result."""
    recipe = flow.recipe
    content = summary.summary(
        recipe.task or flow.task.name, recipe.target.to_json(), recipe.to_dict()["constraints"], rows, best
    )
    if best is None:
        content["infeasible"] = summary.shortfall(rows, recipe.constraints)
    flow.folder.write_summary(content)
    result = Result(flow.folder.path, content)
    result.report()
    flow.folder.emit("run_finished", {"best": best, "folder": str(flow.folder.path)})
    return result


def load(path: str | Path, task: Task) -> nn.Module:
    """Return the PyTorch module of a saved candidate or checkpoint, built by the task's own factory."""
    from paretune.checkpoint import load_model

    return load_model(path, task)


def _shown(emit: Listener | None) -> AbstractContextManager[Listener]:
    """Return the listener given, or one that shows progress on stderr while the run lasts."""
    from paretune.report._progress import progress_for

    return nullcontext(emit) if emit is not None else progress_for(sys.stderr, quiet=False)


def _begin(recipe: Recipe, task: Task, folder: RunFolder, cache: bool) -> Flow:
    """Check the task and the device, and put together what the run needs."""
    from paretune.train._compute import check_device

    check_device(recipe.device)
    task.check()
    shared = caching.default_folder() if cache else None
    store = caching.Store(folder.checkpoints, shared, warn=lambda text: folder.emit("warning", {"text": text}))
    context = Context(seed=recipe.seed, device=recipe.device, target=recipe.target, emit=folder.emit)
    folder.emit("run_started", {"name": folder.path.name, "steps": [step.name for step in recipe.steps]})
    return Flow(task, recipe, folder, store, context)


def _task_of(recipe: Recipe) -> Task:
    if recipe.task is None:
        raise InputError(
            "the recipe names no task; write `task: path/to/file.py:make_task` in it, or hand one over"
        )
    return load_task(recipe.task)


__all__ = ["Candidate", "Result", "load", "optimize", "run"]
