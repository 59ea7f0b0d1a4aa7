"""The fresh process that checks a file: `python -m paretune.export._worker MODEL.onnx REFERENCE.npz`.

It knows nothing but the two files: it loads the model from disk, runs each batch, compares, and prints one JSON
document. It imports numpy, onnx and ONNX Runtime, never torch: what it proves needs no training framework.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from paretune.export._nodewise import node_errors

INCOMPARABLE = 1e9
"""The error of outputs that cannot be compared: another shape, or NaN on one side only."""


def check(model: bytes, reference: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run a file at each batch of its reference; return errors per batch, and the digest of what ran."""
    spec = json.loads(str(reference["spec"]))
    running = _session(model, optimize=True)
    results = []
    for batch in spec["batches"]:
        error, output = _compare(running, reference, spec, batch)
        result: dict[str, Any] = {"batch": batch, "error": error, "output": output, "unoptimized_error": None}
        if spec["kind"] == "int8":
            result |= _nodes(model, _inputs(reference, spec, batch), spec["steps"])
        if error > spec["tolerance"]:
            plain = _session(model, optimize=False)
            result["unoptimized_error"] = _compare(plain, reference, spec, batch)[0]
        results.append(result)
    return {
        "sha256": hashlib.sha256(model).hexdigest(),
        "kind": spec["kind"],
        "tolerance": spec["tolerance"],
        "batches": results,
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        "torch_imported": "torch" in sys.modules,
    }


def relative_error(got: np.ndarray, reference: np.ndarray, step: float | None = None) -> float:
    """Return the largest |difference| over the largest |reference|, or in steps where a step is given.

    Equal values differ by nothing, infinities and NaN included. A reference of zeros is compared absolutely.
    """
    if got.shape != reference.shape:
        return INCOMPARABLE
    if not got.size:
        return 0.0
    a, b = got.astype(np.float64), reference.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(difference).all():
        return INCOMPARABLE
    finite = np.abs(b[np.isfinite(b)])
    scale = step or (float(finite.max()) if finite.size and finite.max() > 0 else 1.0)
    return min(float(difference.max()) / scale, INCOMPARABLE)


def _compare(
    running: onnxruntime.InferenceSession, reference: dict[str, np.ndarray], spec: dict[str, Any], batch: int
) -> tuple[float, str]:
    """Return the largest error at one batch and the output that has it."""
    got = running.run(spec["outputs"], _inputs(reference, spec, batch))
    errors = [
        relative_error(np.asarray(array), reference[f"output/{batch}/{name}"], spec["steps"].get(name))
        for name, array in zip(spec["outputs"], got, strict=True)
    ]
    worst = int(np.argmax(errors))
    return errors[worst], spec["outputs"][worst]


def _nodes(model: bytes, given: dict[str, np.ndarray], steps: dict[str, float]) -> dict[str, Any]:
    worst = node_errors(model, given, _session, steps)
    return {} if worst is None else {"node_error": min(worst[0], INCOMPARABLE), "node": worst[1]}


def _inputs(reference: dict[str, np.ndarray], spec: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
    arrays = {name: reference[f"input/{name}"] for name in spec["inputs"]}
    return {
        name: array[np.arange(batch) % len(array)] if name in spec["batched"] else array
        for name, array in arrays.items()
    }


def _session(model: bytes, *, optimize: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(arguments: list[str]) -> None:
    """Check MODEL against REFERENCE and print the outcome as JSON."""
    model, reference = (Path(argument) for argument in arguments)
    with np.load(reference, allow_pickle=False) as arrays:
        outcome = check(model.read_bytes(), dict(arrays))
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1:])
