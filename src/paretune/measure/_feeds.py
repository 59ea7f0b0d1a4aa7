"""Inputs to time a file on: real ones where given or lying beside it, else made up from its signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paretune.errors import InputError
from paretune.feeds import feeds as named_feeds
from paretune.measure._engine import Engine, Feeds, Input


def example_feeds(engine: Engine, batch: int, inputs: Any = None) -> Feeds:
    """Return input name -> array at the batch asked for.

    inputs: real ones, as a model takes them (a tensor, a tuple, keyword tensors) or as name -> array; repeated
    or cut to the batch. Without them: normal floats (seed 0), zero integers, False; dimension 0 of the first
    input is the batch, and any other free dimension is an InputError that asks for an example.
    """
    if inputs is not None:
        return _at_batch(_named(engine, inputs), engine.inputs, batch)
    generator = np.random.default_rng(0)
    free = _batch_dimension(engine.inputs)
    return {entry.name: _made_up(entry, _shape(entry, free, batch), generator) for entry in engine.inputs}


def reference_inputs(*paths: Path) -> Feeds | None:
    """Return the example inputs beside the first file that has a `NAME.reference.npz`, or None.

    Read are its arrays `input/NAME`, a few samples each, as the export writes them.
    """
    for path in paths:
        beside = Path(path).with_suffix(".reference.npz")
        if beside.is_file():
            with np.load(beside, allow_pickle=False) as stored:
                names = [key for key in stored.files if key.startswith("input/")]
                return {key.removeprefix("input/"): stored[key] for key in names}
    return None


def _named(engine: Engine, inputs: Any) -> Feeds:
    """Return name -> array; arrays whose names the file does not know are taken in order if they are as many."""
    names = [entry.name for entry in engine.inputs]
    if isinstance(inputs, np.ndarray):
        inputs = {names[0]: inputs}
    if isinstance(inputs, Mapping) and all(isinstance(value, np.ndarray) for value in inputs.values()):
        if len(inputs) == len(names) and not set(names) & set(inputs):
            return dict(zip(names, inputs.values(), strict=True))
        found = {name: inputs[name] for name in names if name in inputs}
    else:
        found = named_feeds(names, inputs)
    missing = [name for name in names if name not in found]
    if missing:
        given = f", and is given {', '.join(map(str, inputs))}" if isinstance(inputs, Mapping) else ""
        raise InputError(f"the example input has no '{missing[0]}'; the file takes {', '.join(names)}{given}")
    return found


def _at_batch(found: Feeds, inputs: tuple[Input, ...], batch: int) -> Feeds:
    """Repeat or cut to the batch every input that has one, and check shapes."""
    free = _batch_dimension(inputs)
    made = {}
    for entry in inputs:
        array = found[entry.name]
        if array.ndim and entry.shape and entry.shape[0] == free:
            _check_free(entry, batch)
            array = np.resize(array, (batch, *array.shape[1:]))
        _check_shape(entry, array)
        made[entry.name] = np.ascontiguousarray(array, dtype=entry.dtype)
    return made


def _batch_dimension(inputs: tuple[Input, ...]) -> int | str | None:
    """Return what the file calls dimension 0 of its first input."""
    return inputs[0].shape[0] if inputs and inputs[0].shape else None


def _check_shape(entry: Input, array: np.ndarray) -> None:
    wanted, got = entry.shape, array.shape
    if len(wanted) != len(got) or any(isinstance(w, int) and w != g for w, g in zip(wanted, got, strict=True)):
        raise InputError(f"input '{entry.name}' takes {_written(wanted)}; the example input is {_written(got)}")


def _shape(entry: Input, free: int | str | None, batch: int) -> tuple[int, ...]:
    shape = list(entry.shape)
    if shape and shape[0] == free:
        _check_free(entry, batch)
        shape[0] = batch
    unknown = [size for size in shape if isinstance(size, str)]
    if unknown:
        raise InputError(
            f"input '{entry.name}' {_written(entry.shape)} leaves {', '.join(unknown)} open; "
            "give an example input, whose size is then used"
        )
    return tuple(int(size) for size in shape)


def _check_free(entry: Input, batch: int) -> None:
    if entry.shape and isinstance(entry.shape[0], int) and entry.shape[0] != batch:
        raise InputError(
            f"input '{entry.name}' {_written(entry.shape)} takes a batch of {entry.shape[0]} only, and the "
            f"target's batch is {batch}; set the target's batch to {entry.shape[0]}, or export with a free batch"
        )


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _made_up(entry: Input, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if np.issubdtype(entry.dtype, np.floating):
        return generator.standard_normal(shape).astype(entry.dtype)
    return np.zeros(shape, dtype=entry.dtype)
