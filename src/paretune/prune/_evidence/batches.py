"""Batches of calibration data: as the captured graph takes them, and refused where it was made for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from paretune.data import TARGET_KEYS, Batch, Data, map_tensors, split_batch, tensors_of
from paretune.errors import InputError
from paretune.prune._analysis import Analysis
from paretune.prune._capture.capture import on_device_of


class BatchList(list[Any]):
    """Batches that an iterator gave: it can be passed over once, and what it gave is needed more than once."""


def batches_of(data: Any) -> Any:
    """Return data as they are, or all batches of an iterator."""
    return BatchList(data) if isinstance(data, Iterator) else data


def reader(analysis: Analysis, data: Any, samples: int | None, seed: int) -> Callable[[], Iterator[Batch]]:
    """Return what begins a pass over the data: batches on the model's device, of a size that the graph takes."""
    fixed = analysis.captured.batch if analysis.numbers is None else None
    data = batches_of(data)
    if isinstance(data, list) and data and _are_batches(analysis.captured.example, data):
        data = BatchList(data)
    split = partial(_split, analysis.captured.example)
    raw = list(_limited(iter(data), samples, split)) if isinstance(data, BatchList) else None
    source = None if raw is not None else Data(data, name="data", split=None if isinstance(data, Data) else split)

    def batches() -> Iterator[Batch]:
        if source is None:
            assert raw is not None
            found: Iterator[Batch] = map(split, raw)
        else:
            found = source.batches(shuffle=None if samples is None else (seed, 0), limit=samples)
        for inputs, target in found:
            _check_inputs(analysis.captured.example, inputs)
            for part in cut_to(fixed, (inputs, target)):
                yield on_device_of(analysis.model, part)

    return batches


def _are_batches(example: Any, parts: list[Any]) -> bool:
    """Tell whether the elements of a list are batches as the example is one, rather than samples, or arrays."""
    try:
        for part in parts:
            _check_inputs(example, _split(example, part)[0])
    except (KeyError, ValueError, InputError):
        return False
    return True


def _split(example: Any, batch: Any) -> Batch:
    """Split a batch as a Task does, but for one that holds what the model takes and no more: it has no target."""
    if isinstance(example, Mapping) and isinstance(batch, Mapping):
        target = next((key for key in TARGET_KEYS if key in batch and key not in example), None)
        return {key: value for key, value in batch.items() if key != target}, batch.get(target)
    several = isinstance(example, list | tuple) and len(example) > 1
    if several and isinstance(batch, list | tuple) and len(batch) == len(example):
        return tuple(batch), None
    return split_batch(batch)


def _check_inputs(example: Any, inputs: Any) -> None:
    """Raise an InputError for inputs that the captured graph was not made for: only their batch may differ."""
    if isinstance(example, Mapping) != isinstance(inputs, Mapping) or (
        isinstance(example, Mapping) and not example.keys() <= inputs.keys()
    ):
        raise InputError(
            f"prune.channels: data yields {_names(inputs)}, and the model was captured with {_names(example)}; "
            "give both in the same form"
        )
    captured, given = tensors_of(example), tensors_of(inputs)
    if isinstance(example, Mapping):  # of a dict, what the model is called with
        given = tensors_of([inputs[name] for name in example])
    if [t.shape[1:] for t in captured] != [t.shape[1:] for t in given]:
        raise InputError(
            f"prune.channels: data yields inputs of shapes {[tuple(t.shape) for t in given]}, and the model was "
            f"captured with an example of {[tuple(t.shape) for t in captured]}; only the first axis may differ. "
            "Pass an example of the data's shape, or pad the data"
        )
    for mine, other in zip(captured, given, strict=True):
        if mine.dtype != other.dtype and mine.is_floating_point():
            raise InputError(
                f"prune.channels: data yields {other.dtype}, and the model was captured with {mine.dtype}; "
                "convert one of the two, for example data.float()"
            )


def _names(inputs: Any) -> str:
    """Return the names of keyword inputs, or what other inputs are."""
    return ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else "inputs by position"


def _limited(batches: Iterator[Any], samples: int | None, split: Callable[[Any], Batch]) -> Iterator[Any]:
    seen = 0
    for batch in batches:
        if samples is not None and seen >= samples:
            return
        yield batch
        seen += size_of(split(batch)[0])


def cut_to(size: int | None, batch: Batch) -> Iterator[Batch]:
    """Cut a batch into batches of exactly `size`, where the graph takes no other; a rest is left out."""
    if size is None:
        yield batch
        return
    whole = size_of(batch[0])
    for start in range(0, whole - size + 1, size):
        window = slice(start, start + size)
        yield map_tensors(partial(_window, size=whole, window=window), batch)


def _window(tensor: Tensor, size: int, window: slice) -> Tensor:
    return tensor[window] if tensor.dim() and len(tensor) == size else tensor


def size_of(inputs: Any) -> int:
    """Return the samples in a batch of inputs: the length of its first tensor."""
    return len(tensors_of(inputs)[0])
