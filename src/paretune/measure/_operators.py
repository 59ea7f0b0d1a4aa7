"""Operator times: what one convolution or matrix product takes on a target, alone, by its shape.

A model's time is not its multiply-accumulates: kernels work on blocks of channels, and a width that is no
multiple of a block costs a change of layout on top. So an operator is timed as it stands in a network: a
convolution between two small ones of aligned width, with the change of layout that its own widths call for. What
was timed is kept on disk, in a table for each runtime and CPU; a table of another CPU is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paretune.cache import default_folder
from paretune.errors import RunError
from paretune.files import write_json
from paretune.measure._engine import Event, open_engine
from paretune.measure._feeds import example_feeds
from paretune.target import Target, fingerprint

FORMAT = 1
SECONDS, WHOLE_SECONDS = 0.01, 1.0
"""How long one operator is run, and a whole model."""


@dataclass(frozen=True)
class Convolution:
    """A convolution, or its transpose; `reads` and `makes` are all channels of its input and output."""

    batch: int
    reads: int
    makes: int
    size: tuple[int, ...]
    """Of the input, along each dimension of space."""
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class Product:
    """A matrix product: `stack` times (rows, inner) by (inner, columns)."""

    stack: int
    rows: int
    inner: int
    columns: int
    constant: bool
    """Whether the right side is a weight, which the runtime packs beforehand."""


Operator = Convolution | Product


class OperatorTime(NamedTuple):
    """What an operator takes in a profiled run."""

    ms: float
    calls: int
    """Kernels that the runtime calls for it: its own, and those that change the layout of what it reads."""


class OperatorTable:
    """Times of operators on a target; what was not timed before is timed when it is asked for, once."""

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        self.target = target
        runtime = import_module(f"paretune.measure._{target.runtime}")
        self._profile: Callable[..., list[Event]] = runtime.profile
        machine = fingerprint()
        self._of = {
            "format": FORMAT,
            "runtime": f"{target.runtime} {runtime.version()}",
            "threads": target.threads,
            "machine": {name: machine[name] for name in ("name", "flags_hash", "cores")},
        }
        folder = folder or default_folder() / "operators"
        self.path = folder / f"{target.runtime}-{target.threads}.json"
        self.note = ""
        """What the user should know of where the times come from; empty where there is nothing to say."""
        self.timed = 0
        """Operators that were timed here and now."""
        self._times = self._load()
        self._known: dict[Operator, OperatorTime] = {}

    def _load(self) -> dict[str, OperatorTime]:
        try:
            stored = json.loads(self.path.read_text())
            of = stored["of"]
            whose = of["machine"]["name"]
            times = {str(key): OperatorTime(float(ms), int(calls)) for key, (ms, calls) in stored["times"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self.note = f"the operator times in {self.path} cannot be read: measured anew"
            return {}
        if of != self._of:
            other = whose != self._of["machine"]["name"]  # type: ignore[index]
            what = f"another CPU ({whose})" if other else "another runtime, format or number of cores"
            self.note = f"the operator times in {self.path} are of {what}: measured anew"
            return {}
        return times

    def time(self, operator: Operator) -> OperatorTime:
        """Return the time of an operator; what is new is timed. One that does not run alone is a RunError."""
        if operator not in self._known:
            key = key_of(operator)
            if key not in self._times:
                self._times[key] = self._time(operator)
                self.timed += 1
            self._known[operator] = self._times[key]
        return self._known[operator]

    def save(self) -> None:
        """Write the table down, whole or not at all; where it cannot be written, `note` says so."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"of": self._of, "times": self._times})
        except (OSError, RunError) as error:
            self.note = f"the operator times cannot be kept in {self.path} ({error}): measured anew next time"

    def _time(self, operator: Operator) -> OperatorTime:
        if not _works(operator):
            return OperatorTime(0.0, 0)
        from paretune.measure._alone import alone, own  # it needs onnx, which nothing else here does

        model, inputs = alone(operator)
        generator = np.random.default_rng(0)
        feeds = {n: generator.standard_normal(shape).astype(np.float32) for n, shape in inputs.items()}
        try:
            events = self._profile(model, feeds, threads=self.target.threads, seconds=SECONDS)
        except Exception as error:  # runtimes' exception classes share no public base
            reason = str(error).strip().splitlines()[0][:200]
            raise RunError(f"{self.target.runtime} cannot run '{key_of(operator)}' alone: {reason}") from error
        mine = own(events)
        return OperatorTime(sum(event.ms for event in mine), len(mine))


def profiled(path: Path, target: Target, *, inputs: Any = None) -> tuple[list[Event], float]:
    """Return what the runtime ran of a file, operator by operator, and milliseconds of a call that nobody watches.

    inputs: as `example_feeds` takes them.
    """
    runtime = import_module(f"paretune.measure._{target.runtime}")
    feeds = example_feeds(open_engine(path, target), target.batch, inputs)
    found: tuple[list[Event], float] = runtime.profile_and_time(
        path.read_bytes(), feeds, threads=target.threads, seconds=WHOLE_SECONDS
    )
    return found


def key_of(operator: Operator) -> str:
    """Return an operator's name in a table."""
    kind = "transposed" if getattr(operator, "transposed", False) else type(operator).__name__.lower()
    numbers = [v for v in asdict(operator).values() if not isinstance(v, bool)]
    texts = ["x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in numbers]
    return " ".join([kind, *texts, *(["weight"] if getattr(operator, "constant", False) else [])])


def _works(operator: Operator) -> bool:
    """Whether anything is computed: an axis of length 0 takes no time."""
    if isinstance(operator, Product):
        return min(operator.stack, operator.rows, operator.inner, operator.columns) > 0
    return min(operator.batch, operator.reads, operator.makes, *operator.size) > 0
