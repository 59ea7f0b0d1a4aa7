"""The batch rule: batch is dimension 0 of every input whose dimension 0 equals the first input's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paretune.data import map_tensors, tensors_of
from paretune.errors import TaskError


def batch_of(inputs: Any) -> int:
    """Return the batch of an input: dimension 0 of its first tensor."""
    tensors = tensors_of(inputs)
    if not tensors or tensors[0].ndim == 0:
        what = "holds no tensor" if not tensors else "begins with a tensor without dimensions"
        raise TaskError(f"task.example {what}; give inputs whose first tensor has the batch as dimension 0")
    return int(tensors[0].shape[0])


def is_batched(tensor: Tensor, batch: int) -> bool:
    """Return whether dimension 0 of a tensor is the batch."""
    return tensor.ndim > 0 and tensor.shape[0] == batch


def take(inputs: Any, rows: list[int]) -> Any:
    """Return the samples `rows` of every batched tensor, in that order; other values stay.

    >>> take((torch.tensor([[1], [2]]), torch.zeros(3)), [1, 1, 0])
    (tensor([[2],
            [2],
            [1]]), tensor([0., 0., 0.]))
    """
    batch, index = batch_of(inputs), torch.tensor(rows, dtype=torch.long)
    return map_tensors(
        lambda tensor: tensor.index_select(0, index.to(tensor.device)) if is_batched(tensor, batch) else tensor,
        inputs,
    )


def resized(inputs: Any, batch: int) -> Any:
    """Return the inputs at another batch, their samples repeated in turn."""
    have = batch_of(inputs)
    return inputs if have == batch else take(inputs, [row % have for row in range(batch)])
