"""The whole flow: Task -> baseline -> steps -> export -> graph steps -> verify -> measure -> report.

`run` walks one recipe; every step's outcome is a candidate. `optimize` walks a short ladder of recipes until the
constraints hold. Both leave a run folder that a killed run goes on from.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune import cache as caching
from paretune import ladder, summary
from paretune.checkpoint import State
from paretune.errors import InputError, VerificationError
from paretune.measurement import Evaluation, Latency, Measurement
from paretune.recipe import Constraints, Context, GraphStep, Recipe, Step
from paretune.result import Candidate, Result
from paretune.runfolder import RunFolder, open_run
from paretune.target import Target
from paretune.task import Task, load_task

if TYPE_CHECKING:
    from torch import nn

    from paretune.export import Exported

Listener = Callable[[str, dict[str, Any]], None]


def run(
    recipe: Recipe,
    task: Task | None = None,
    *,
    out: str | Path,
    resume: bool = False,
    cache: bool = True,
    emit: Listener | None = None,
) -> Result:
    """Walk a recipe on a task and measure what each step brought.

    The baseline is the task's model, or the trained one where the recipe begins with `train`. Candidates are
    compared on validation data; the best that holds the constraints is confirmed once on the test data.
    out: the run folder, created, or with `resume` gone on with. cache: share finished steps with other runs.
    """
    task = task or _task_of(recipe)
    with open_run(out, {"recipe.yaml": recipe.to_yaml()}, resume=resume, listen=emit) as folder:
        flow = _begin(recipe, task, folder, cache)
        baseline = flow.baseline()
        stages = [baseline, *flow.walk(baseline, recipe.steps[len(baseline.steps) :])]
        rows = flow.measure(stages)
        best = flow.confirm(rows, stages, summary.choose(rows, recipe.constraints))
        return flow.finish(rows, best)


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
    with open_run(
        out, {"recipe.yaml": first.to_yaml(), "optimize.json": settings.to_json()}, resume=resume, listen=emit
    ) as folder:
        flow = _begin(first, task, folder, cache)
        baseline = flow.baseline()
        stages, rows = ladder.climb(flow, baseline, first, settings)
        best = flow.confirm(rows, stages, summary.choose(rows, constraints))
        return flow.finish(rows, best)


@dataclass(frozen=True)
class Stage:
    """A model at one point of a recipe, exported: what can be measured."""

    name: str
    steps: tuple[Step, ...]
    """From the task's model to here."""
    model: nn.Module
    state: State
    exported: Exported
    """The graph with its node metadata; graph steps change it."""
    artifact: Path
    float_artifact: Path
    """The float file that a quantized artifact was made of; the artifact itself where it is float."""
    kind: str
    """`float` or `int8`: what its certificate compares it with."""
    checkpoint: Path | None
    seconds: float
    """Time in steps so far."""
    notes: tuple[str, ...] = ()
    details: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Flow:
    """What every part of a run needs: the task, the recipe's frame, the folder, and the store of finished steps."""

    task: Task
    recipe: Recipe
    folder: RunFolder
    store: caching.Store
    context: Context

    def baseline(self) -> Stage:
        """Return the model that everything is compared with: as given, or trained by the recipe's first steps."""
        model, steps = self.fresh_model(), self.recipe.steps
        leading = tuple(step for i, step in enumerate(steps) if all(s.name == "train" for s in steps[: i + 1]))
        state = State(model.state_dict())
        model, state, checkpoint, seconds = self._apply_all(model, state, leading, self.context)
        if checkpoint is None:
            checkpoint = self.folder.checkpoints / "00-given.safetensors"
            if not checkpoint.is_file():
                state.save(checkpoint)
        return self._stage("baseline", leading, model, state, checkpoint, seconds)

    def fresh_model(self) -> nn.Module:
        """Return the task's model, its random initialisation fixed by the recipe's seed."""
        import torch

        torch.manual_seed(self.recipe.seed)
        return self.task.build()

    def walk(
        self, start: Stage, steps: Sequence[Step], *, only_last: bool = False, name: str = ""
    ) -> Iterator[Stage]:
        """Apply steps from a stage on, and yield a stage after each of them (or after the last one only)."""
        context = dataclasses.replace(self.context, teacher=copy.deepcopy(start.model).eval())
        stage = start
        for index, step in enumerate(steps):
            shown = not only_last or index == len(steps) - 1
            label = self._label(step, stage) if not only_last else name if shown else f"{name}.float"
            if isinstance(step, GraphStep):
                stage = self._graph_stage(label, stage, step, context)
            else:
                model = stage.state.onto(self.fresh_model())
                model, state, checkpoint, seconds = self._apply_all(
                    model, stage.state, (step,), context, offset=len(stage.steps)
                )
                follows = steps[index + 1] if index + 1 < len(steps) else None
                stage = self._stage(
                    label, (*stage.steps, step), model, state, checkpoint, stage.seconds + seconds, before=stage,
                    export=shown or isinstance(follows, GraphStep),
                )  # fmt: skip
            if shown:
                yield stage

    def _apply_all(
        self, model: nn.Module, state: State, steps: Sequence[Step], context: Context, offset: int = 0
    ) -> tuple[nn.Module, State, Path | None, float]:
        """Apply model steps in order, each from the store where it was done before."""
        checkpoint, seconds = None, 0.0
        for index, step in enumerate(steps, start=offset):
            model, state, checkpoint = self._apply(model, state, step, context, index)
            seconds += state.seconds
        return model, state, checkpoint, seconds

    def _apply(
        self, model: nn.Module, state: State, step: Step, context: Context, index: int
    ) -> tuple[nn.Module, State, Path]:
        key = caching.step_key(step, state, model, self.task, context)
        name = f"{index + 1:02d}-{step.name}"
        self.folder.emit("step_started", {"step": step.name, "index": index, "count": len(self.recipe.steps)})
        stored = self.store.load(key, name)
        if stored is None:
            work = self.store.path(key, name).with_suffix("")
            context = dataclasses.replace(context, folder=work, emit=_named(context.emit, step.name))
            began = time.perf_counter()
            result = step.apply(model, self.task, context)
            model = result.model
            stored = State(
                model.state_dict(), (*state.cuts, *result.cuts), result.notes, result.details,
                time.perf_counter() - began,
            )  # fmt: skip
            self.store.save(key, name, stored)
            _remove(work)
        else:
            model = stored.onto(self.fresh_model())
        for note in stored.notes:
            self.folder.emit("note", {"step": step.name, "text": note})
        self.folder.emit("step_finished", {"step": step.name, "index": index, "seconds": stored.seconds})
        return model.eval(), stored, self.store.path(key, name)

    def _stage(
        self, name: str, steps: tuple[Step, ...], model: nn.Module, state: State, checkpoint: Path | None,
        seconds: float, before: Stage | None = None, export: bool = True,
    ) -> Stage:  # fmt: skip
        from paretune.export import export_onnx, save, strip

        artifact = self.folder.artifacts / f"{name}.onnx"
        exported = before.exported if before is not None else None
        if export or exported is None:
            exported = export_onnx(model.eval(), self.task.inputs())
            save(strip(exported.graph), artifact)
        return Stage(
            name, steps, model, state, exported, artifact, artifact, "float", checkpoint, seconds,
            (*(before.notes if before else ()), *state.notes, *exported.notes),
            (*(before.details if before else ()), state.details),
        )  # fmt: skip

    def _graph_stage(self, name: str, before: Stage, step: GraphStep, context: Context) -> Stage:
        from paretune.export import save, strip

        index = len(before.steps)
        self.folder.emit("step_started", {"step": step.name, "index": index, "count": len(self.recipe.steps)})
        began = time.perf_counter()
        context = dataclasses.replace(context, emit=_named(context.emit, step.name))
        graph = step.apply_graph(before.exported.graph, self.task, context)
        artifact = self.folder.artifacts / f"{name}.onnx"
        save(strip(graph), artifact)
        seconds = time.perf_counter() - began
        self.folder.emit("step_finished", {"step": step.name, "index": index, "seconds": seconds})
        return dataclasses.replace(
            before, name=name, steps=(*before.steps, step), artifact=artifact, kind="int8",
            exported=dataclasses.replace(before.exported, graph=graph), seconds=before.seconds + seconds,
        )  # fmt: skip

    def _label(self, step: Step, before: Stage) -> str:
        """Return `pruned`, `distilled`, `quantized`, `trained`; numbered where a recipe does it twice."""
        family = step.name.split(".")[0]
        word = {"prune": "pruned", "distill": "distilled", "quantize": "quantized", "train": "trained"}.get(
            family, step.name
        )
        again = sum(other.name.split(".")[0] == family for other in before.steps if family != "train")
        return word if not again else f"{word}-{again + 1}"

    def measure(self, stages: Sequence[Stage]) -> list[summary.Row]:
        """Verify every stage in a fresh process and time all of them in the same rounds, the first as baseline.

        What a run before a kill measured of these very files is read back from its journal.
        """
        from paretune.files import sha256

        key = [[stage.name, sha256(stage.artifact)] for stage in stages]
        for event in self.folder.recorded("measured"):
            if event["files"] == key and all(
                (self.folder.path / row["certificate"]).is_file() for row in event["rows"]
            ):
                return list(event["rows"])
        rows = self._measure(stages)
        self.folder.record("measured", {"files": key, "rows": rows})
        return rows

    def _measure(self, stages: Sequence[Stage]) -> list[summary.Row]:
        from paretune.measure import latency

        self.folder.emit("measuring", {"what": "latency", "done": 0, "total": len(stages)})
        latencies = latency([stage.artifact for stage in stages], self.recipe.target, inputs=self.timing_inputs())
        rows: list[summary.Row] = []
        evaluations: list[Evaluation] = []
        for index, (stage, timing) in enumerate(zip(stages, latencies, strict=True)):
            self.folder.emit("measuring", {"what": stage.name, "done": index, "total": len(stages)})
            row, evaluation = self._row(stage, timing, evaluations[0] if evaluations else None, stages[0])
            rows.append(row)
            evaluations.append(evaluation)
            self.folder.emit("candidate", {"name": stage.name, "row": row})
        return rows

    def timing_inputs(self) -> Any:
        """Return the example input at the target's batch."""
        from paretune.data import map_tensors

        batch = self.recipe.target.batch
        return map_tensors(
            lambda t: t[:1].repeat(batch, *([1] * (t.ndim - 1))) if t.ndim else t, self.task.inputs()
        )

    def _row(
        self, stage: Stage, timing: Latency, baseline: Evaluation | None, first: Stage
    ) -> tuple[summary.Row, Evaluation]:
        """Certify, evaluate and cost one stage; return its row of the summary."""
        from paretune.export import certify, evaluate_file
        from paretune.measure import fresh_process, macs, parameters

        certificate = certify(
            stage.artifact, stage.model, self.task, kind=stage.kind, exported=stage.exported, split="val",
            float_path=stage.float_artifact if stage.kind == "int8" else None,
        )  # fmt: skip
        if not certificate.ok:
            failed = next(check for check in certificate.batches if not check.ok)
            raise VerificationError(
                f"{stage.artifact} does not compute what the model computes: error {failed.error:.3g} at batch "
                f"{failed.batch} (allowed {certificate.tolerance:g}), first seen at "
                f"{failed.diverges_at or 'the output'}"
            )
        evaluation = evaluate_file(stage.artifact, self.task.data("val"), self.task.resolved_metric())
        load_ms, memory = fresh_process(stage.artifact, self.recipe.target)
        measured = Measurement(
            metric=evaluation, latency=timing, bytes=stage.artifact.stat().st_size,
            params=parameters(stage.model), macs=macs(stage.model, self.task.inputs()),
            peak_memory_bytes=memory, load_ms=load_ms,
        )  # fmt: skip
        prefix = dataclasses.replace(self.recipe, steps=stage.steps)
        row: summary.Row = {
            "name": stage.name,
            "recipe": prefix.to_dict(),
            "certificate": str(stage.artifact.with_suffix(".certificate.json").relative_to(self.folder.path)),
            **measured.to_json(),
            "train_seconds": stage.seconds,
            "artifact": str(stage.artifact.relative_to(self.folder.path)),
            "checkpoint": str(stage.checkpoint.relative_to(self.folder.path)) if stage.checkpoint else None,
            "split": self._split_name("val"),
            "notes": list(dict.fromkeys(stage.notes)),
            "command": self._command(prefix, stage.name),
            "layers": self._layers(stage, first),
        }
        if baseline is not None:
            row |= self._compared(baseline, evaluation)
        return row, evaluation

    def _compared(self, baseline: Evaluation, evaluation: Evaluation) -> summary.Row:
        """Return the paired decision on the drop, and what changed beside the metric."""
        from paretune.decision import behaviour, decide

        decision = decide(baseline, evaluation, self._bound())
        return {"decision": decision.to_json(), "behaviour": behaviour(baseline, evaluation)}

    def _bound(self) -> float:
        """Return the drop that verdicts are about: the constraint, or one point (percent) where there is none."""
        bound = self.recipe.constraints.max_drop
        return 1.0 if bound is None else bound

    def _layers(self, stage: Stage, first: Stage) -> list[dict[str, Any]]:
        from paretune.measure import layer_table

        return layer_table(first.model, stage.model, self.task.inputs())

    def _command(self, prefix: Recipe, name: str) -> str:
        from paretune.files import write_text

        path = self.folder.artifacts / f"{name}.recipe.yaml"
        write_text(path, prefix.to_yaml())
        if prefix.task is None:
            return f"paretune.run(paretune.read_recipe({str(path)!r}), task, out=...)"
        return f"paretune run {path}"

    def _split_name(self, split: str) -> str:
        """Return which data a split really is: a task without `val` is judged on `test`, and the reverse."""
        if getattr(self.task, split) is not None:
            return split
        return {"val": "test", "test": "val"}[split]

    def seconds_per_epoch(self, baseline: Stage) -> float:
        """Return what an epoch of distillation from and into a model of the baseline's shape takes, roughly."""
        import torch

        from paretune.data import as_device, call

        model = baseline.state.onto(self.fresh_model()).to(self.context.device).train()
        loss, data = self.task.criterion(), self.task.data("train")
        times = []
        for index, (inputs, target) in enumerate(data.batches(shuffle=(self.recipe.seed, 0))):
            began = time.perf_counter()
            inputs, target = as_device(inputs, self.context.device), as_device(target, self.context.device)
            with torch.no_grad():
                call(model, inputs)
            loss(call(model, inputs), target).backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - began)
            if index == 3:
                break
        return max(1e-3, min(times) * data.steps())

    def confirm(self, rows: list[summary.Row], stages: Sequence[Stage], best: str | None) -> str | None:
        """Measure the chosen candidate once on the test data, beside the baseline; return it if it still holds."""
        from paretune.decision import decide
        from paretune.export import evaluate_file

        if best is None or self.task.test is None or self.task.val is None:
            if best is not None:
                self.folder.emit(
                    "note", {"text": "chosen and reported on the same data: the task has no test data"}
                )
            return best
        metric, data = self.task.resolved_metric(), self.task.data("test")
        chosen = next(i for i, row in enumerate(rows) if row["name"] == best)
        evaluations = {i: evaluate_file(stages[i].artifact, data, metric) for i in {0, chosen}}
        for index, evaluation in evaluations.items():
            rows[index]["test"] = {"metric": evaluation.to_json()}
            _certify_test(stages[index].artifact, evaluation)
        if chosen == 0:
            return best
        decision = decide(evaluations[0], evaluations[chosen], self._bound())
        rows[chosen]["test"]["decision"] = decision.to_json()
        if decision.verdict == "not within":
            self.folder.emit(
                "warning", {"text": f"'{best}' held on validation data, but not on test data: {decision.text()}"}
            )
            return None
        return best

    def finish(self, rows: list[summary.Row], best: str | None) -> Result:
        """Write `summary.json` and the report, and return the result."""
        recipe = self.recipe
        content = summary.summary(
            recipe.task or self.task.name, recipe.target.to_json(), recipe.to_dict()["constraints"], rows, best
        )
        if best is None:
            content["infeasible"] = summary.shortfall(rows, recipe.constraints)
        self.folder.write_summary(content)
        result = Result(self.folder.path, content)
        result.report()
        self.folder.emit("run_finished", {"best": best, "folder": str(self.folder.path)})
        return result


def load(path: str | Path, task: Task) -> nn.Module:
    """Return the PyTorch module of a saved candidate or checkpoint, built by the task's own factory."""
    from paretune.checkpoint import load_model

    return load_model(path, task)


def _begin(recipe: Recipe, task: Task, folder: RunFolder, cache: bool) -> Flow:
    """Check the task, and put together what the run needs."""
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


def _named(emit: Listener, step: str) -> Listener:
    return lambda kind, fields: emit(kind, {"step": step, **fields})


def _certify_test(artifact: Path, evaluation: Evaluation) -> None:
    """Write the metric on the test data, re-measured from the file, into the file's certificate."""
    from paretune.artifact import Artifact, Certificate

    path = Artifact(artifact).certificate_path
    certificate = Certificate.load(path)
    dataclasses.replace(certificate, metric={**evaluation.to_json(), "split": "test"}).save(path)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["Candidate", "Flow", "Result", "Stage", "load", "optimize", "run"]
