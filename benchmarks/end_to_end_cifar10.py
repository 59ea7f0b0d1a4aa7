"""The pretrained ResNet-20 on CIFAR-10, pruned, distilled and INT8, against its own FP32 baseline.

Widths are chosen per stage in multiples of 16, since a uniform ratio fails: the trunk (the channels that run
through the residual sums) stays, and so do the first two stages; the inner channels of the last stage's blocks,
where two thirds of the weights are, are halved. That is the mildest cut that fits the bytes. INT8 alone is timed
in the same rounds as the peer. All choices are made on the test images at even positions; those at odd positions
are read once, and all 10,000 are reported beside them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _cifar10 import make_task, normalised
from _common import RESULTS, Result, run, say
from paretune import Constraints, Recipe, Target
from paretune import run as run_recipe
from paretune.data import Data
from paretune.decision import decide
from paretune.distill import Distill
from paretune.export import evaluate_file, export_onnx, save, strip
from paretune.measure import latency
from paretune.prune import Channels
from paretune.quantize import Static
from paretune.recipe import Context
from paretune.result import Result as Run

WIDTHS = {"layer3.*.conv1": 32}
EPOCHS = 25
WORK = Path(__file__).parent / ".work" / "end_to_end_cifar10"
DROP, LATENCY, SIZE = 1.0, 0.45, 0.17


def recipe(epochs: int) -> Recipe:
    """Return the steps: widths, distillation from the unpruned network, static INT8."""
    return Recipe(
        steps=(
            Channels(widths=WIDTHS, recalibrate=2048),
            Distill(
                epochs=epochs,
                optimizer="sgd",
                lr=0.02,
                weight_decay=1e-4,
                warmup=min(1.0, epochs / 2),
                alpha=0.9,
                precision="bfloat16",
                layout="channels_last",
            ),
            Static(calibration=512),
        ),
        target=Target(threads=1, batch=1),
        constraints=Constraints(max_drop=DROP, max_latency=f"{LATENCY}x", max_size=f"{SIZE}x"),
    )


def measure(quick: bool) -> Result:
    """Run the recipe (a folder that was begun is gone on with), confirm on the odd half, time beside INT8."""
    task = make_task(quick)
    folder = Path(tempfile.mkdtemp()) if quick else WORK
    if not quick:
        torch.set_num_threads(2)
    result = _finish(recipe(1 if quick else EPOCHS), task, folder / "pruned")
    files = [result.candidates[0].artifact, result.candidates[-1].artifact, _int8_alone(task, folder)]
    _, ours, int8 = latency(files, Target(threads=1, batch=1), seconds=1.0 if quick else 2.0)
    accuracy = _accuracies(files, task, limit=500 if quick else None)
    size = files[1].stat().st_size / files[0].stat().st_size
    drop = accuracy["odd"]["decision"]["drop"]
    met = drop <= DROP and ours.ratio <= LATENCY and size <= SIZE and ours.verdict == "faster"
    kept = {} if quick else _keep(files)
    return Result(
        value=ours.ratio,
        unit="latency against FP32 (ONNX Runtime, batch 1, one thread)",
        goal=f"at most {DROP} point lost on the odd half, latency at most {LATENCY}x, bytes at most {SIZE}x",
        met=met,
        peer={"name": "INT8 alone, same run", "value": int8.ratio},
        detail={
            "latency": ours.to_json(),
            "int8_alone": {"latency": int8.to_json(), "size": files[2].stat().st_size / files[0].stat().st_size},
            "size": size,
            "bytes": [file.stat().st_size for file in files],
            "accuracy": accuracy,
            "rows": [_short(row) for row in result.summary["candidates"]],
            "epochs": 1 if quick else EPOCHS,
            **kept,
        },
    )


def _int8_alone(task: Any, folder: Path) -> Path:
    """Write the peer: the network as it was given, in static INT8 and nothing else."""
    graph = export_onnx(task.build().eval(), task.inputs()).graph
    return save(strip(Static(calibration=512).apply_graph(graph, task, Context())), folder / "int8_alone.onnx")


def _finish(steps: Recipe, task: Any, folder: Path) -> Run:
    """Run a recipe, or go on with it where an earlier start of this benchmark left it."""
    resume = (folder / "recipe.yaml").is_file()
    return run_recipe(steps, task, out=folder, resume=resume, emit=_show)


def _show(kind: str, fields: dict[str, Any]) -> None:
    if kind == "epoch":
        say(f"epoch {fields['epoch']}/{fields['epochs']}: loss {fields['loss']:.4f}, {fields['value']:.4f}")
    elif kind not in ("batch", "measuring", "candidate"):
        say(f"{kind} {fields.get('text') or fields.get('step') or ''}")


def _accuracies(files: list[Path], task: Any, limit: int | None) -> dict[str, Any]:
    """Return, on the odd half and on all 10,000, the accuracy of each file and the paired decision on the drop."""
    both = [np.concatenate(parts) for parts in zip(task.val, task.test, strict=True)]
    everything = Data(tuple(both), split=normalised, name="all")
    found: dict[str, Any] = {}
    for name, data in (("odd", task.data("test")), ("all", everything)):
        base, ours, int8 = (evaluate_file(file, data, task.resolved_metric(), limit=limit) for file in files)
        found[name] = {
            "baseline": base.to_json(),
            "ours": ours.to_json(),
            "int8_alone": int8.to_json(),
            "decision": decide(base, ours, DROP).to_json(),
        }
    return found


def _keep(files: list[Path]) -> dict[str, str]:
    """Copy the two artifacts beside the result, so that anyone re-evaluates the claim without training."""
    folder = RESULTS / "end_to_end_cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    for file, name in zip(files, ("baseline.onnx", "pruned_distilled_int8.onnx"), strict=False):
        shutil.copyfile(file, folder / name)
    return {
        "artifact": "end_to_end_cifar10/pruned_distilled_int8.onnx",
        "baseline": "end_to_end_cifar10/baseline.onnx",
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "name",
        "metric",
        "latency",
        "bytes",
        "params",
        "macs",
        "train_seconds",
        "decision",
        "behaviour",
        "test",
    )
    return {key: row[key] for key in (*keys, "test") if key in row}


if __name__ == "__main__":
    run("end_to_end_cifar10", measure)
