"""Who teaches the student of a round.

`ensemble` averages the outputs of all that came before; of logits that is, after the softmax, the normalised
geometric mean of their distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paretune.metrics import main_output

TEACHERS = ("full", "first", "last", "best", "ensemble")


class Mean(nn.Module):
    """The mean of what several models give."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean of the main outputs."""
        return torch.stack([main_output(member(*args, **kwargs)) for member in self.members]).mean(0)


def teacher_of(
    kind: str, full: nn.Module, rounds: Sequence[tuple[nn.Module, float | None]], up: bool
) -> nn.Module:
    """Return the teacher of the next round.

    kind: one of TEACHERS: the full model, that of the first round, of the last, of the round that is best on
        validation data, or the mean of the full one and all rounds. In the first round the full model teaches.
    rounds: the model of each round so far with its metric on validation data; up: True where more is better.
    """
    if kind == "full" or not rounds:
        return full
    models = [model for model, _ in rounds]
    if kind == "ensemble":
        return Mean([full, *models])
    if kind == "best":
        found = [(value if up else -value, index) for index, (_, value) in enumerate(rounds) if value is not None]
        return models[max(found)[1]] if found else models[-1]
    return models[0] if kind == "first" else models[-1]
