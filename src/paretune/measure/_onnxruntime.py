"""ONNX Runtime on the CPU, as a real-time service would use it.

One thread pool of `threads`, sequential execution, every graph optimisation on. With several threads the pool
stops spinning when a call ends: else the idle threads of one engine take the cores that the next one is timed on.

Source: onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.measure._engine import Event, Input

onnxruntime: Any = import_module("onnxruntime")  # its type information hides its own public names

FEWEST_RUNS, MOST_RUNS = 5, 100
"""Of a model in one stretch of its profile."""
STRETCHES = 4
"""In which a model is run alone and watched."""
KERNEL = "_kernel_time"
"""How the names of the events end that tell what an operator took."""
MULTIPLIES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are convolutions or matrix products, as the runtime names them, perhaps behind `Fused`."""

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def load(path: Path, *, threads: int) -> OnnxRuntimeEngine:
    """Load an ONNX file; one that ONNX Runtime refuses is an InputError."""
    try:
        session = _session(str(path), session_options(threads))
    except Exception as error:  # its exception classes share no public base
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {reason}") from error
    return OnnxRuntimeEngine(session, path)


def session_options(threads: int) -> Any:
    """Return the options every measurement is made with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def version() -> str:
    """Return the runtime's version."""
    return str(onnxruntime.__version__)


def profile(model: bytes, feeds: Mapping[str, np.ndarray], *, threads: int, seconds: float) -> list[Event]:
    """Run a model for some time and return what ran, in order."""
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        watched = _watched(model, threads, folder)
        runs = len(_calls(watched, feeds, seconds))
        return _events(watched, runs)


def profile_and_time(
    model: bytes, feeds: Mapping[str, np.ndarray], *, threads: int, seconds: float
) -> tuple[list[Event], float]:
    """Return what ran, in order, and milliseconds of a whole call that nobody watches.

    Every second stretch is watched by the runtime's profiler, so that a change of the machine's speed meets both.
    """
    plain, runs, us = _session(model, session_options(threads)), 0, list[float]()
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        watched = _watched(model, threads, folder)
        for _ in range(STRETCHES):
            us += _calls(plain, feeds, seconds / STRETCHES)
            runs += len(_calls(watched, feeds, seconds / STRETCHES))
        return _events(watched, runs), float(_undisturbed(np.array(us))) / 1000


def _watched(model: bytes, threads: int, folder: str) -> Any:
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder) / "profile")
    return _session(model, options)


def _events(watched: Any, runs: int) -> list[Event]:
    """Return what ran in a session that was watched for so many runs."""
    events = json.loads(Path(watched.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]
    kernels.sort(key=lambda event: event["ts"])
    times = _undisturbed(np.array([event["dur"] for event in kernels], float).reshape(runs, -1))
    return [_event(event, float(each) / 1000) for event, each in zip(kernels, times, strict=False)]


def _session(model: bytes | str, options: Any) -> Any:
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _calls(session: Any, feeds: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    """Return microseconds of calls, made for some time."""
    call, clock, us = partial(session.run, None, dict(feeds)), time.perf_counter, list[float]()
    until = clock() + seconds
    while len(us) < FEWEST_RUNS or (clock() < until and len(us) < MOST_RUNS):
        start = clock()
        call()
        us.append(1e6 * (clock() - start))
    return us


def _undisturbed(values: np.ndarray) -> np.ndarray:
    """Return the mean of the second fifth of sorted (runs, ...): what interrupts a run makes it longer only."""
    values = np.sort(values, axis=0)
    mean: np.ndarray = values[len(values) // 5 : max(len(values) // 5 + 1, 2 * len(values) // 5)].mean(axis=0)
    return mean


def _event(event: Mapping[str, Any], ms: float) -> Event:
    kind = event["args"]["op_name"]
    shapes = [shape for output in event["args"].get("output_type_shape", ()) for shape in output.values()]
    multiplies = kind.removeprefix("Fused") in MULTIPLIES
    return Event(event["name"].removesuffix(KERNEL), kind, ms, tuple(shapes[0]) if shapes else (), multiplies)


@final
class OnnxRuntimeEngine:
    """An ONNX Runtime session."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session = session
        self._path = path

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs, in the file's order; a type that is no plain tensor is an InputError."""
        return tuple(self._input(node) for node in self._session.get_inputs())

    def _input(self, node: Any) -> Input:
        if node.type not in DTYPES:
            raise InputError(
                f"{self._path}: input '{node.name}' is a {node.type}; can feed {', '.join(sorted(DTYPES))}"
            )
        shape = tuple(size if isinstance(size, int) else str(size) for size in node.shape)
        return Input(node.name, np.dtype(DTYPES[node.type]), shape)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs' names, in the file's order."""
        return tuple(node.name for node in self._session.get_outputs())

    def bind(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Return a call without arguments that runs the session on `feeds`."""
        return partial(self._session.run, None, dict(feeds))
