"""ONNX Runtime on the CPU, as a real-time service would use it.

One thread pool of `threads`, sequential execution, every graph optimisation on. With several threads the pool
stops spinning when a call ends: else the idle threads of one engine take the cores that the next one is timed on.

Source: onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.measure._engine import Input

onnxruntime: Any = import_module("onnxruntime")  # its type information hides its own public names

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
        session = onnxruntime.InferenceSession(
            str(path), session_options(threads), providers=["CPUExecutionProvider"]
        )
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
