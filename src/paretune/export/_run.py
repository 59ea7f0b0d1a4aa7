"""Run an ONNX file in ONNX Runtime with the inputs and outputs of the PyTorch model it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from paretune.data import Data
from paretune.errors import InputError
from paretune.evaluation import evaluate
from paretune.export._batches import batch_of, take
from paretune.feeds import feeds
from paretune.measurement import Evaluation
from paretune.metrics import Metric


class Outputs(dict[str, Tensor]):
    """Named outputs; `outputs.logits` reads as `outputs["logits"]` does, for metrics written either way."""

    def __getattr__(self, name: str) -> Tensor:
        if name in self:
            return self[name]
        raise AttributeError(f"the file has no output '{name}'; it has {', '.join(self)}")


def session(
    model: Path | str | bytes, *, threads: int = 1, optimize: bool = True, outputs: Sequence[str] | None = None
) -> onnxruntime.InferenceSession:
    """Load a file, or its bytes, in ONNX Runtime on the CPU; what does not load is an InputError.

    optimize: False runs the graph node by node as it is written. outputs: inner values to return as well, after
    the graph's own outputs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    name = "the graph" if isinstance(model, bytes) else str(model)
    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        if outputs:
            content = _exposed(content, outputs)
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:  # ONNX Runtime's errors share no class below Exception
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(
            f"{name} is no file that ONNX Runtime {onnxruntime.__version__} loads: {reason}"
        ) from error


def _exposed(content: bytes, outputs: Sequence[str]) -> bytes:
    model = onnx.load_model_from_string(content)
    have = {value.name for value in model.graph.output}
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in outputs if name not in have])
    return bytes(model.SerializeToString())


def fixed_batch(running: onnxruntime.InferenceSession) -> int | None:
    """Return the only batch a file takes, or None where its first input's dimension 0 is free."""
    inputs = running.get_inputs()
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, int) else None


def run_file(path: Path | str | bytes, inputs: Any, *, threads: int = 1) -> Any:
    """Run a file once: a tensor, tuple or dict of tensors in; a tensor, tuple or `Outputs` back."""
    return runner(session(path, threads=threads))(inputs)


def runner(running: onnxruntime.InferenceSession) -> Callable[[Any], Any]:
    """Return inputs -> outputs of a session, as `evaluation.evaluate` calls a model.

    The output `output` comes back as a tensor, `output_0`, ... as a tuple, others as `Outputs`. A file of fixed
    batch is run in pieces of that batch, the last one filled up by repetition and cut again.
    """
    fixed = fixed_batch(running)

    def run(inputs: Any) -> Any:
        if fixed is None or batch_of(inputs) == fixed:
            return structured(run_arrays(running, inputs))
        return structured(_in_pieces(running, inputs, fixed))

    return run


def run_arrays(running: onnxruntime.InferenceSession, inputs: Any) -> dict[str, np.ndarray]:
    """Run once; return output name -> array. Inputs that do not fit the file are an InputError."""
    given = feeds([value.name for value in running.get_inputs()], inputs)
    try:
        results = running.run(None, given)
    except Exception as error:
        takes = ", ".join(f"{value.name} {value.shape} {value.type}" for value in running.get_inputs())
        got = ", ".join(f"{name} {list(array.shape)} {array.dtype}" for name, array in given.items())
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(f"the file takes {takes}; it was given {got}: {reason}") from error
    return {value.name: np.asarray(array) for value, array in zip(running.get_outputs(), results, strict=True)}


def structured(arrays: dict[str, np.ndarray]) -> Any:
    """Return arrays by name as the model returned them: a tensor, a tuple, or named tensors."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    names = list(tensors)
    if names == ["output"]:
        return tensors["output"]
    if names == [f"output_{i}" for i in range(len(names))]:
        return tuple(tensors.values())
    return Outputs(tensors)


def _in_pieces(running: onnxruntime.InferenceSession, inputs: Any, size: int) -> dict[str, np.ndarray]:
    batch = batch_of(inputs)
    pieces = []
    for start in range(0, batch, size):
        rows = [min(row, batch - 1) for row in range(start, start + size)]
        real = min(size, batch - start)
        arrays = run_arrays(running, take(inputs, rows))
        pieces.append({name: a[:real] if a.ndim and len(a) == size else a for name, a in arrays.items()})
    return {
        name: np.concatenate([piece[name] for piece in pieces]) if pieces[0][name].ndim else pieces[0][name]
        for name in pieces[0]
    }


def evaluate_file(
    path: Path | str, data: Data, metric: Metric, *, limit: int | None = None, threads: int = 1
) -> Evaluation:
    """Measure a metric from a file, on the first `limit` samples of a split or all of them.

    A file of fixed batch takes any data: see `runner`.
    """
    return evaluate(runner(session(path, threads=threads)), data, metric, limit=limit)
