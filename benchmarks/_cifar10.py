"""The CIFAR-10 task of the benchmarks: a pretrained ResNet, judged as the data's own README asks.

The pretrained networks have seen all training images and their best epoch was picked on the test images; so test
images at even positions are the validation set (every choice), those at odd positions the test set (read once).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune import Task
from paretune.zoo import cifar10, load_resnet_cifar

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def make_task(quick: bool = False, depth: int = 20) -> Task:
    """Return the task: uint8 images, normalised batch by batch, so that 50,000 of them take 150 MB.

    quick: 1,280 images to train on and 500 each to choose and to confirm, all of them apart and from the test file
    (the network has seen the training images anyway), so that five of six files are not read.
    """
    data = cifar10(SHARED / "cifar10", ("test",) if quick else ("train", "test"))
    test = _arrays(*data["test"])
    train = tuple(part[-1280:] for part in test) if quick else _arrays(*data["train"])
    even, odd = np.arange(0, 1000 if quick else 10_000, 2), np.arange(1, 1000 if quick else 10_000, 2)
    return Task(
        name=f"resnet{depth} on CIFAR-10",
        model=partial(make_model, depth),
        train=train,
        val=(test[0][even], test[1][even]),
        test=(test[0][odd], test[1][odd]),
        split=normalised,
        augment=crop_and_flip,
        example=torch.zeros(1, 3, 32, 32),
        batch_size=128,
    )


def make_model(depth: int = 20) -> torch.nn.Module:
    """Return the pretrained ResNet of a depth: 20, 32, 44 or 56."""
    return load_resnet_cifar(SHARED / "cifar10_resnets" / f"resnet{depth}.safetensors")


def normalised(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 (n, 3, 32, 32) as the network was trained on, and int64 labels."""
    images, labels = batch
    return (images.float() / 255 - MEAN) / STD, labels


def crop_and_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random 32x32 crop of each image padded with 4 black pixels, half of them mirrored."""
    count = len(images)
    black = (-MEAN / STD).expand(count, 3, 40, 40).clone()
    black[:, :, 4:36, 4:36] = images
    rows = torch.arange(32) + torch.randint(0, 9, (count, 1), generator=generator)
    columns = torch.arange(32) + torch.randint(0, 9, (count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample, channel = torch.arange(count).reshape(-1, 1, 1, 1), torch.arange(3).reshape(1, -1, 1, 1)
    return black[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _arrays(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64)
