"""What a runtime must do to be measured: load a file, name its inputs, run.

A runtime is one module of this package, `_NAME.py`, with `load(path, *, threads) -> Engine`, `version() -> str`,
`profile(model, feeds, *, threads, seconds) -> list[Event]` and `profile_and_time`, which gives milliseconds of a
call too, and its name in `target.RUNTIMES`; nothing else here knows which runtime it times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paretune.errors import InputError, nearest
from paretune.target import Target

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """One input of a file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    """A number, or the name of a dimension that is free."""


@dataclass(frozen=True)
class Event:
    """What a runtime ran, as its own profile tells it."""

    name: str
    kind: str
    ms: float
    shape: tuple[int, ...]
    """Of its first output."""
    multiplies: bool
    """Whether it is a convolution or a matrix product."""


class Engine(Protocol):
    """A loaded file."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs, in the file's order."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs' names, in the file's order."""

    def bind(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Return a call without arguments that runs the file on `feeds`, with as little Python as can be."""


def open_engine(path: Path, target: Target) -> Engine:
    """Load a file on the target's runtime; a missing or damaged file is an InputError that names it."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        raise InputError(f"no file {path}.{nearest(path.name, [entry.name for entry in folder.glob('*.onnx')])}")
    runtime = import_module(f"paretune.measure._{target.runtime}")
    engine: Engine = runtime.load(path, threads=target.threads)
    return engine
