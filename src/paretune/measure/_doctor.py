"""What works on this machine, tried and not looked up, and how small a difference it can see."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from paretune.measure._engine import open_engine
from paretune.measure._latency import latency, load_average
from paretune.target import RUNTIMES, Target, fingerprint

PACKAGES = ("paretune", "torch", "numpy", "onnx", "onnxruntime")
CHANNELS = 32
REPEATS = 5


def doctor(*, seconds: float = 0.5) -> dict[str, Any]:
    """Return versions, the machine, what its engines can run, and an A/A timing check, as plain JSON.

    seconds: timing per engine and repeat. Keys: versions, machine, threads, load_average, engines {NAME: {float,
    int8: "ok" or what went wrong}}, timing {verdicts, smallest_visible_difference (a fraction, None where the
    machine is too noisy to see any), noise}. Takes less than 20 seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.onnx" for kind in ("float", "int8")}
        write_graph(files["float"], int8=False)
        write_graph(files["int8"], int8=True)
        return {
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
            "machine": fingerprint(),
            "threads": fingerprint()["cores"],
            "load_average": load_average(),
            "engines": {
                runtime: {kind: _try(file, Target(runtime=runtime)) for kind, file in files.items()}
                for runtime in RUNTIMES
            },
            "timing": _same_against_itself(files["float"], seconds),
        }


def write_graph(path: Path, *, int8: bool) -> None:
    """Write a convolution of (batch, 32, 16, 16), in float or as Q/DQ in 8 bits, as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    shape: list[str | int | None] = ["batch", CHANNELS, 16, 16]
    tensors: dict[str, np.ndarray] = {"weight": weight}
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])]
    if int8:
        tensors = {
            "step": np.array(0.05, np.float32),
            "middle": np.array(128, np.uint8),
            "weight_step": np.array(0.004, np.float32),
            "zero": np.array(0, np.int8),
            "stored": np.clip(np.round(weight / 0.004), -127, 127).astype(np.int8),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "step", "middle"], ["xf"]),
            helper.make_node("DequantizeLinear", ["stored", "weight_step", "zero"], ["wf"]),
            helper.make_node("Conv", ["xf", "wf"], ["yf"], pads=[1, 1, 1, 1]),
            helper.make_node("QuantizeLinear", ["yf", "step", "middle"], ["y8"]),
            helper.make_node("DequantizeLinear", ["y8", "step", "middle"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "doctor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    # The opset and format that the oldest supported ONNX Runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.ModelProto.SerializeToString(model))


def _try(path: Path, target: Target) -> str:
    try:
        engine = open_engine(path, target)
        (output,) = engine.bind({"x": np.ones((1, CHANNELS, 16, 16), np.float32)})()
    except Exception as error:  # whatever a broken installation throws is the answer that was asked for
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    return "ok" if np.isfinite(output).all() else "the output is not finite"


def _same_against_itself(path: Path, seconds: float) -> dict[str, Any]:
    """Time a file against itself several times: whatever difference shows is the machine's."""
    pairs = [latency([path, path], Target(), rounds=round(seconds / 0.02))[1] for _ in range(REPEATS)]
    steady = [seen for seen in pairs if seen.verdict != "too noisy"]
    ends = [max(seen.ratio_high - 1, 1 - seen.ratio_low) for seen in steady]
    return {
        "verdicts": [seen.verdict for seen in pairs],
        "smallest_visible_difference": max(ends) if 2 * len(steady) > REPEATS else None,
        "noise": float(np.median([seen.noise for seen in pairs])),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
