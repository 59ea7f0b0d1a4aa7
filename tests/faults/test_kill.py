"""A run that is killed at any moment goes on, and ends with the weights of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paretune.checkpoint import read_tensors

KILLS = 20
TASK = """
import numpy as np, torch
from torch import nn
import paretune

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    )

def shift(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)

def make_task():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 4096)
    x = rng.normal(size=(4096, 1, 8, 8)).astype(np.float32)
    x[np.arange(4096), 0, y, y] += 4
    part = lambda a, b: (x[a:b], y[a:b])
    return paretune.Task(model=make_model, train=part(0, 3000), val=part(3000, 3500), test=part(3500, 4096),
                         augment=shift, example=torch.zeros(1, 1, 8, 8))
"""
RECIPE = """
task: task.py:make_task
steps:
  - train: {epochs: 6, precision: float32, layout: contiguous}
  - prune.channels: {ratio: 0.5}
  - distill: {epochs: 8, optimizer: sgd, lr: 0.05, precision: float32, layout: contiguous}
  - quantize.static: {calibration: 64}
"""


def start(folder: Path, work: Path, *, resume: bool) -> "subprocess.Popen[bytes]":
    arguments = ["--resume", str(folder)] if resume else ["recipe.yaml", "--out", str(folder)]
    command = [sys.executable, "-m", "paretune", "run", *arguments, "--no-cache", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 over the tensors of every finished step, by the checkpoint's name."""
    from paretune.checkpoint import digest

    return {
        path.name: digest(read_tensors(path)[0]) for path in sorted((folder / "checkpoints").glob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    (folder / "task.py").write_text(TASK)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_twenty_kills_at_random_moments_change_no_bit(work: Path):
    began = time.monotonic()
    finish(start(work / "undisturbed", work, resume=False))
    whole = time.monotonic() - began
    expected = digests(work / "undisturbed")
    assert len(expected) == 4

    draw = random.Random(20)
    kills, folder, number = 0, work / "killed-0", 0
    while kills < KILLS:
        process = start(folder, work, resume=(folder / "recipe.yaml").is_file())
        try:
            process.wait(timeout=draw.uniform(0.03, 0.5) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        else:
            finish(process)
            assert digests(folder) == expected
            number += 1
            folder = work / f"killed-{number}"
    finish(start(folder, work, resume=(folder / "recipe.yaml").is_file()))
    assert digests(folder) == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert [candidate["name"] for candidate in summary["candidates"]] == [
        "baseline", "pruned", "distilled", "quantized",
    ]  # fmt: skip
    assert not list(folder.rglob("*.tmp")), "a killed write leaves no temporary file behind for good"
