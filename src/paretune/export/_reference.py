"""What a file is checked on: a few samples, and the outputs that they must give, in `NAME.reference.npz`.

One pool of a few samples serves every batch: batch b takes samples 0 ... b-1, in turn where b is above the
pool. The file holds arrays only and is read without torch:

    spec               JSON: kind, tolerance, batches, inputs, batched (inputs that have the batch), outputs, steps
    input/NAME         the pool of one input
    output/BATCH/NAME  the reference of one output at one batch
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paretune.data import map_tensors, tensors_of
from paretune.errors import TaskError
from paretune.export._batches import batch_of, is_batched, take
from paretune.feeds import feeds
from paretune.files import write_atomic
from paretune.task import Task

SIZES = (3, 2, 5, 7)
"""How many samples: the first of these that no input without a batch has as its dimension 0 by chance."""


@dataclass(frozen=True)
class Spec:
    """How to check a file against its reference."""

    kind: str
    tolerance: float
    batches: tuple[int, ...]
    inputs: tuple[str, ...]
    batched: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: dict[str, float]
    """INT8 files: the step of each output's grid."""


def pool_of(task: Task) -> Any:
    """Return a few samples: the first of the validation data, or where there is none the example with noise.

    Integers (tokens, indices) are repeated as they are. Seeded: the same task gives the same pool.
    """
    example = map_tensors(lambda tensor: tensor.detach().cpu(), task.inputs())
    batch = batch_of(example)
    others = {tensor.shape[0] for tensor in tensors_of(example) if tensor.ndim and not is_batched(tensor, batch)}
    size = next(size for size in (*SIZES, max(others, default=0) + 1) if size not in others)
    if task.val is not None or task.test is not None:
        inputs, _ = task.data("val").first(size)
        return map_tensors(lambda tensor: tensor.detach().cpu(), inputs)
    pool = take(example, [row % batch for row in range(size)])
    noise = torch.Generator().manual_seed(0)

    def perturb(tensor: Tensor) -> Tensor:
        if not is_batched(tensor, size) or not tensor.is_floating_point():
            return tensor
        spread = 0.1 * float(tensor.std(correction=0)) or 0.1
        moved = tensor + spread * torch.randn(tensor.shape, generator=noise)
        return torch.cat([tensor[:1], moved[1:]]).to(tensor.dtype)

    return map_tensors(perturb, pool)


def at_batch(pool: Any, batch: int) -> Any:
    """Return the pool at a batch, as the worker does."""
    have = batch_of(pool)
    return take(pool, [row % have for row in range(batch)])


def write_reference(
    path: Path,
    pool: Any,
    names: Sequence[str],
    references: dict[int, dict[str, np.ndarray]],
    *,
    kind: str,
    tolerance: float,
    steps: dict[str, float],
) -> None:
    """Write pool, outputs and spec, atomically. names: the file's inputs; references: batch -> name -> array."""
    arrays = feeds(names, pool)
    if missing := [name for name in names if name not in arrays]:
        raise TaskError(f"the file takes the input '{missing[0]}', and the task's data yield {', '.join(arrays)}")
    batched = _batched(names, pool)
    outputs = tuple(next(iter(references.values())))
    spec = Spec(kind, tolerance, tuple(references), tuple(names), batched, outputs, steps)
    content: dict[str, np.ndarray] = {f"input/{name}": array for name, array in arrays.items()}
    for batch, values in references.items():
        content |= {f"output/{batch}/{name}": array for name, array in values.items()}
    content["spec"] = np.array(json.dumps(asdict(spec)))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **content)  # type: ignore[arg-type]

    write_atomic(path, write)


def _batched(names: Sequence[str], pool: Any) -> tuple[str, ...]:
    """Return the inputs that have the batch, by the order or keys in which `feeds` names them."""
    batch = batch_of(pool)
    marks = map_tensors(lambda tensor: torch.tensor([float(is_batched(tensor, batch))]), pool)
    return tuple(name for name, mark in feeds(names, marks).items() if mark[0])


def torch_outputs(run: Callable[[Any], Any], inputs: Any) -> dict[str, np.ndarray]:
    """Return what a module or another function of the inputs gives, as arrays by output name."""
    from paretune.export._structure import named_outputs

    with torch.no_grad():
        outputs = named_outputs(run(inputs))
    return {name: tensor.detach().cpu().numpy() for name, tensor in outputs.items()}
