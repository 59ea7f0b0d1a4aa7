"""Small networks and their exports, made once for the folder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paretune.export import Exported, export_onnx
from paretune.task import Task


class Residual(nn.Module):
    """Convolutions, a batch norm, a residual add and a linear layer; a dict output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.norm(self.stem(image)))
        hidden = hidden + torch.relu(self.middle(hidden))
        return {"logits": self.head(hidden.mean((2, 3)))}


@pytest.fixture(scope="session")
def residual() -> Residual:
    torch.manual_seed(0)
    model = Residual()
    nn.init.normal_(model.norm.running_mean)
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    return model.eval()


@pytest.fixture(scope="session")
def residual_task(residual: Residual) -> Task:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    return Task(model=residual, val=(images, labels), example=images[:1])


@pytest.fixture(scope="session")
def residual_export(residual: Residual, residual_task: Task) -> Exported:
    return export_onnx(residual, residual_task.inputs())


class Unrolled(nn.Module):
    """A Python loop over the batch, which the exporter unrolls without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.layer(x[i]) for i in range(x.shape[0])])


@pytest.fixture(scope="session")
def unrolled() -> Unrolled:
    torch.manual_seed(0)
    return Unrolled().eval()


@pytest.fixture(scope="session")
def unrolled_export(unrolled: Unrolled) -> Exported:
    return export_onnx(unrolled, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
