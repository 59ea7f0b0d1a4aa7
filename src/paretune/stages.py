"""A recipe's steps walked, each from the store where it was done before, and each outcome exported: a `Stage`."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune import cache as caching
from paretune.checkpoint import State
from paretune.recipe import Context, GraphStep, Recipe, Step
from paretune.runfolder import RunFolder
from paretune.task import Task

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from paretune.export import Exported

Listener = Callable[[str, dict[str, Any]], None]
TOLD = {"epoch": "curve", "round": "rounds", "beta": "beta", "tree": "trees"}
"""Kinds of events that the report draws, and where a finished step's details hold them."""


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
    graph_before: onnx.ModelProto | None
    """The float graph that a quantized one was made of, with its names."""
    kind: str
    """`float` or `int8`: what its certificate compares it with."""
    checkpoint: Path | None
    seconds: float
    """Time in steps so far."""
    notes: tuple[str, ...] = ()
    details: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Flow:
    """What every part of a run needs: task, recipe, folder, and the store of finished steps."""

    task: Task
    recipe: Recipe
    folder: RunFolder
    store: caching.Store
    context: Context

    @property
    def leading(self) -> tuple[Step, ...]:
        """The recipe's first `train` steps: they make the baseline."""
        return tuple(itertools.takewhile(lambda step: step.name == "train", self.recipe.steps))

    def baseline(self) -> Stage:
        """Return the model that everything is compared with: as given, or trained by the recipe's first steps."""
        model = self.fresh_model()
        state = State(model.state_dict())
        model, state, checkpoint, seconds = self._apply_all(model, state, self.leading, self.context)
        if checkpoint is None:
            checkpoint = self.folder.checkpoints / "00-given.safetensors"
            if not checkpoint.is_file():
                state.save(checkpoint)
        return self._stage("baseline", self.leading, model, state, checkpoint, seconds)

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
        here = self.store.path(key, name).is_file()
        stored = self.store.load(key, name)
        cached = stored is not None
        if stored is None:
            work = self.store.path(key, name).with_suffix("")
            context = dataclasses.replace(context, folder=work, emit=_named(context.emit, step.name))
            began = time.perf_counter()
            result = step.apply(model, self.task, context)
            model = result.model
            stored = State(
                model.state_dict(), (*state.cuts, *result.cuts), result.notes, result.details,
                max(time.perf_counter() - began, result.details.get("seconds", 0.0)),  # epochs before a kill too
            )  # fmt: skip
            self.store.save(key, name, stored)
            shutil.rmtree(work, ignore_errors=True)
        else:
            model = stored.onto(self.fresh_model())
            for kind, rows in TOLD.items() if not here else ():  # for the report; nothing is running
                for row in stored.details.get(rows, ()):
                    self.folder.keep(kind, {"step": step.name, "cached": True, **row})
        for note in stored.notes:
            self.folder.emit("note", {"step": step.name, "text": note})
        self.folder.emit(
            "step_finished", {"step": step.name, "index": index, "seconds": stored.seconds, "cached": cached}
        )
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
            name, steps, model, state, exported, artifact, artifact, None, "float", checkpoint, seconds,
            (*(before.notes if before else ()), *state.notes, *exported.notes),
            (*(before.details if before else ()), state.details),
        )  # fmt: skip

    def _graph_stage(self, name: str, before: Stage, step: GraphStep, context: Context) -> Stage:
        """Apply a step to the exported graph, or take its result from the store."""
        import onnx
        import torch

        from paretune.export import save, strip

        index, source = len(before.steps), before.exported.graph.SerializeToString(deterministic=True)
        self.folder.emit("step_started", {"step": step.name, "index": index, "count": len(self.recipe.steps)})
        key = caching.graph_key(step, source, self.task, context)
        stored = self.store.load(key, f"{index + 1:02d}-{step.name}")
        cached = stored is not None
        if stored is None:
            began = time.perf_counter()
            context = dataclasses.replace(context, emit=_named(context.emit, step.name))
            made = step.apply_graph(before.exported.graph, self.task, context).SerializeToString()
            stored = State({"graph": torch.frombuffer(bytearray(made), dtype=torch.uint8)},
                           seconds=time.perf_counter() - began)  # fmt: skip
            self.store.save(key, f"{index + 1:02d}-{step.name}", stored)
        graph = onnx.load_from_string(stored.tensors["graph"].numpy().tobytes())
        artifact = self.folder.artifacts / f"{name}.onnx"
        save(strip(graph), artifact)
        self.folder.emit(
            "step_finished", {"step": step.name, "index": index, "seconds": stored.seconds, "cached": cached}
        )
        return dataclasses.replace(
            before, name=name, steps=(*before.steps, step), artifact=artifact, kind="int8",
            exported=dataclasses.replace(before.exported, graph=graph),
            graph_before=before.graph_before or before.exported.graph, seconds=before.seconds + stored.seconds,
        )  # fmt: skip

    def _label(self, step: Step, before: Stage) -> str:
        """Return `pruned`, `distilled`, `quantized`, `trained`; numbered where a recipe does it again."""
        family = step.name.split(".")[0]
        word = {"prune": "pruned", "distill": "distilled", "quantize": "quantized", "train": "trained"}.get(
            family, step.name
        )
        again = sum(other.name.split(".")[0] == family for other in before.steps[len(self.leading) :])
        return word if not again else f"{word}-{again + 1}"

    def classifies(self) -> bool:
        """Say whether the task tells classes apart: several outputs for whole-number targets."""
        from paretune.data import call
        from paretune.metrics import main_output

        inputs, target = self.task.data("train").first(2)
        output = main_output(call(self.fresh_model().eval(), inputs))
        whole = target is not None and hasattr(target, "is_floating_point") and not target.is_floating_point()
        return whole and output.ndim >= 2 and output.shape[1] > 1

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


def _named(emit: Listener, step: str) -> Listener:
    return lambda kind, fields: emit(kind, {"step": step, **fields})
