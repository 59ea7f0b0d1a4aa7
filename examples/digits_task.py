"""A task: a model that has been trained, its data, and what counts as good.

    paretune optimize examples/digits_task.py:make_task --max-drop 1 --max-latency 0.5x

Yours looks the same: build your model, load its weights, hand over your data. Here the weights are trained on
first use, in seconds, and kept in `digits.safetensors` beside this file.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

import paretune
from paretune.files import write_bytes
from paretune.zoo import digits, normalise

WEIGHTS = Path(__file__).with_name("digits.safetensors")


def make_task() -> paretune.Task:
    model, train, val, test = load()
    return paretune.Task(
        model=model,
        train=train,
        val=val,
        test=test,
        loss="cross_entropy",
        metric="accuracy",
        example=torch.zeros(1, 1, 8, 8),
        name="digits",
    )


def load() -> tuple[nn.Module, tuple, tuple, tuple]:
    """Return the trained model, and training, validation and test data as (inputs, labels)."""
    data = {
        split: (normalise(images, mean=[0.3], std=[0.38], scale=16.0), labels.astype(np.int64))
        for split, (images, labels) in digits().items()
    }
    if not WEIGHTS.exists():
        write_bytes(WEIGHTS, save(fit(network(), *data["train"]).state_dict()))
    model = network()
    model.load_state_dict(load_file(WEIGHTS))
    return model, data["train"], data["val"], data["test"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def fit(model: nn.Module, inputs: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Train with a plain loop: paretune does not ask how a model came about."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(len(x)).split(32):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
