"""A task in a file, small enough that a whole run takes seconds, and the command line in this process."""

from __future__ import annotations

import shutil
import textwrap

import pytest
from click.testing import CliRunner

from paretune.cli import app

TASK = '''
"""Four kinds of 8x8 images: the bright quarter is the class."""
import torch
from torch import nn

import paretune


def data(seed, count):
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 4
    for i, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[i, 0, row : row + 4, column : column + 4] += 1.0
    return images, labels


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4),
    )


def make_task():
    return paretune.Task(
        name="quarters", model=net, train=data(1, 128), val=data(2, 64), test=data(3, 64), batch_size=32
    )


def make_nothing():
    return None


class Diverging(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images):
        return self.layer(images.flatten(1)) * (1.0 if not self.training else float("nan"))


def make_diverging():
    return paretune.Task(model=Diverging, train=data(1, 64), val=data(2, 32), test=data(3, 32))
'''

RECIPE = """
task: quarters.py:make_task
steps:
  - train: {epochs: 2, lr: 0.01, precision: float32, layout: contiguous}
  - quantize.static: {calibration: 32}
constraints: {max_size: 0.001x}
seed: 1
"""
"""Two candidates, and a bound that nothing holds."""


def write_task(folder):
    """Write quarters.py and recipe.yaml."""
    (folder / "quarters.py").write_text(textwrap.dedent(TASK))
    (folder / "recipe.yaml").write_text(RECIPE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder that holds quarters.py and recipe.yaml, with a cache of its own."""
    write_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def infeasible_run(tmp_path_factory):
    """Return (folder, result) of `paretune run recipe.yaml`, walked once for all tests."""
    folder = tmp_path_factory.mktemp("run")
    write_task(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PARETUNE_CACHE", str(folder / "cache"))
        return folder, CliRunner().invoke(app, ["run", "recipe.yaml"])


@pytest.fixture
def finished(infeasible_run, monkeypatch, tmp_path):
    """Work in a copy of the folder of that run; its run folder is runs/recipe."""
    folder = tmp_path / "copy"
    shutil.copytree(infeasible_run[0], folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PARETUNE_CACHE", str(folder / "cache"))
    return folder


@pytest.fixture
def cli():
    """Call the command line: cli("run", "recipe.yaml") -> result with exit_code, stdout, stderr."""
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])
