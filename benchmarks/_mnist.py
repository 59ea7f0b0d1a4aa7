"""LeNet-300-100 on MNIST: the task that several benchmarks share."""

from __future__ import annotations

import numpy as np
import torch

from _cifar10 import SHARED
from paretune.task import Task
from paretune.zoo import idx, lenet_300_100

QUICK_TEST = 1000
TRAINED, QUICK_TRAINED = 55_000, 5000
"""Images that are trained on; the last 5,000 of the 60,000 validate."""


def make_task(quick: bool) -> Task:
    """Return the task; a quick one trains on fewer images and is judged on fewer."""
    parts = [idx(SHARED / "mnist" / f"{name}.gz") for name in (
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
    )]  # fmt: skip
    images, labels, test_images, test_labels = (
        torch.from_numpy(part.astype(np.float32)[:, None] / 255 if part.ndim == 3 else part.astype(np.int64))
        for part in parts
    )
    trained = QUICK_TRAINED if quick else TRAINED
    return Task(
        name="mlp MNIST",
        model=lenet_300_100,
        train=(images[:trained], labels[:trained]),
        val=(images[TRAINED:], labels[TRAINED:]),
        test=(test_images[:QUICK_TEST], test_labels[:QUICK_TEST]) if quick else (test_images, test_labels),
        batch_size=128,
    )
