"""The task of `paretune demo`: the bundled digits and a network that has yet to be trained.

The recipe beside it, `demo.yaml`, trains it first; no download, no GPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from paretune.task import Task
from paretune.zoo._digits import digits
from paretune.zoo._digits_net import digits_net
from paretune.zoo._normalise import normalise

RECIPE = Path(__file__).with_name("demo.yaml")
MEAN, STD = 0.305, 0.376
"""Of the grey levels of the training images, as fractions of 16."""


def make_demo_task() -> Task:
    """Return the digits task: inputs float32 (n, 1, 8, 8), normalised; accuracy over ten classes.

    Sets PyTorch to one thread: batches this small gain little from a second one, and on a busy machine threads
    that wait for each other made an epoch ten times as long (28 s for 2.5 s at a load of 6 on 2 cores).
    """
    torch.set_num_threads(1)
    splits = {split: (_prepared(images), labels.astype(np.int64)) for split, (images, labels) in digits().items()}
    return Task(
        name="digits",
        model=_network,
        example=torch.from_numpy(splits["val"][0][:1]),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        augment=shift,
    )


def shift(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move half of the images by -1, 0 or 1 pixel along each axis, drawn for each; what moves in is background.

    inputs: (n, channels, height, width). Half, because a pixel is much of an image of eight: moved every time, the
    digits are hardly ever seen as the validation data have them, and 12 epochs end a point lower.
    """
    count, channels, height, width = inputs.shape
    padded = torch.nn.functional.pad(inputs, (1, 1, 1, 1), value=-MEAN / STD)
    moves = torch.randint(0, 3, (2, count, 1), generator=generator)
    moves = torch.where(torch.rand(count, 1, generator=generator) < 0.5, moves, 1)  # 1 is where it stood
    rows = (torch.arange(height) + moves[0]).reshape(count, 1, height, 1)
    columns = (torch.arange(width) + moves[1]).reshape(count, 1, 1, width)
    return padded[
        torch.arange(count).reshape(-1, 1, 1, 1), torch.arange(channels).reshape(1, -1, 1, 1), rows, columns
    ]


def _network() -> torch.nn.Module:
    torch.manual_seed(0)  # a fresh process must build the same untrained weights
    return digits_net()


def _prepared(images: np.ndarray) -> np.ndarray:
    return normalise(images, mean=[MEAN], std=[STD], scale=16.0)
