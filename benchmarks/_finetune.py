"""What the CIFAR benchmarks share: cut by paretune or torch-pruning, fine-tune alike, say which images are right.

The weights of the last epoch are taken, so that training chooses nothing; `distill` alone takes its best epoch on
the even test images, which are there to choose on.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from _arms import estimate, packed, unpacked
from _common import say
from _peer_cut import macs, projected, shaped
from paretune.distill import distill
from paretune.evaluation import evaluate
from paretune.prune import Channels
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import FitResult, fit, recalibrate_batch_norm

PEER_CUT = Path(__file__).with_name("_peer_cut.py")
TRAINING: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "weight_decay": 1e-4}
RECALIBRATION = 2048
"""Training images for batch norm's statistics after a cut, in every arm."""
HALVES = {"even": "val", "odd": "test"}


def cut_by_paretune(task: Task, speed: float, seed: int, **choices: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network cut by the step `prune.channels` at its defaults, and what the step tells of it."""
    step = Channels(macs=1 / speed, recalibrate=RECALIBRATION, **choices)
    result = step.apply(task.build(), task, Context(seed=seed))
    before, after = (result.details[key] for key in ("before", "after"))
    told = {"speed": before["macs"] / after["macs"], "params": after["params"] / before["params"]}
    return result.model, told | {"widths": result.details["widths"], "notes": list(result.notes)}


def cut_by_peer(
    task: Task,
    python: Path,
    path: Path,
    *,
    depth: int,
    speed: float,
    importance: str,
    shortcut: str,
    seed: int,
    quick: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network cut by torch-pruning in its environment, batch norm recalibrated as ours is.

    path: where the cut weights are kept; a cut that is there is read.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(PEER_CUT), str(path), "--depth", str(depth), "--speed", str(speed)]
        command += ["--importance", importance, "--shortcut", shortcut, "--seed", str(seed), *["--quick"][:quick]]
        subprocess.run(command, check=True, capture_output=True, text=True)
    whole = task.build()
    fresh = projected(task.build()) if shortcut == "conv" else task.build()
    model = shaped(fresh, load_file(str(path)))
    told = {"speed": macs(whole) / macs(model), "params": _params(model) / _params(whole)}
    recalibrate_batch_norm(model, task.data("train"), samples=RECALIBRATION, augment=task.augment, seed=seed)
    return model.eval(), told | {"importance": importance, "shortcut": shortcut}


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tune(
    model: nn.Module,
    task: Task,
    *,
    epochs: int,
    seed: int,
    folder: Path,
    distilled: bool = False,
    left: int = 0,
    **other: Any,
) -> FitResult:
    """Fine-tune with the one schedule of all arms; a training that was stopped goes on from its last epoch.

    left: arms that are still to run after this one, for the estimate that the first epoch gives.
    other: what differs from the schedule of all arms.
    """
    training = {**TRAINING, **other, "epochs": epochs, "warmup": min(0.5, epochs / 2)}

    def listen(kind: str, fields: dict[str, Any]) -> None:
        if kind == "epoch":
            say(f"  epoch {fields['epoch']}/{epochs}: loss {fields['loss']:.4f}, even half {fields['value']:.4f}")
            if fields["epoch"] == 1:
                estimate("  this arm", fields["seconds"] * (epochs - 1))
                estimate("  all that is left", fields["seconds"] * (epochs * (left + 1) - 1))

    context = Context(seed=seed, folder=folder, emit=listen)
    if distilled:
        return distill(model, task.build(), task, context=context, **training)
    return fit(model, task, context=context, keep_best=False, **training)


def listen(kind: str, fields: dict[str, Any]) -> None:
    """Tell every epoch."""
    if kind == "epoch":
        told = f"loss {fields['loss']:.4f}, {fields['value']:.4f}, {fields['seconds']:.0f} s"
        say(f"  epoch {fields['epoch']}: {told}")


def judged(model: nn.Module, task: Task) -> dict[str, Any]:
    """Return the accuracy in points and the packed correctness on both halves of the test images."""
    metric = task.resolved_metric()
    found: dict[str, Any] = {}
    for half, split in HALVES.items():
        rows = evaluate(model, task.data(split), metric).rows[:, 0] > 0.5
        found[half] = {"accuracy": float(rows.mean() * 100), "correct": packed(rows), "count": len(rows)}
    return found


def correct(row: dict[str, Any], half: str) -> np.ndarray:
    """Return which images of a half (or of `all`) were right, from what `judged` found."""
    if half == "all":
        return np.concatenate([correct(row, "even"), correct(row, "odd")])
    return unpacked(row[half]["correct"], row[half]["count"])


def threads(quick: bool) -> None:
    """Use both cores in a full run, or as OMP_NUM_THREADS says; a quick one leaves the setting as it is."""
    if not quick:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
