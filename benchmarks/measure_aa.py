"""A file timed against itself: how often does `paretune.measure.latency` say "same"?

Any other verdict is a false claim ("faster", "slower") or a refusal ("too noisy"). Goal: "same" in at least 95 of
100 runs, on the machine as it is, over files whose call takes from about 10 microseconds to a millisecond. The
peer is what is usually done: the mean of one loop over the mean of the next, called different beyond 2 %.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from _common import Result, run, say
from paretune import Target
from paretune.measure import latency
from paretune.measurement import Latency

WIDTHS = (4, 32, 96)
"""Channels of the three files: about 10, 100 and 1000 microseconds a call."""
ENOUGH = 0.95


def measure(quick: bool) -> Result:
    """Run the A/A comparison 100 times (6 times, shorter, with --quick)."""
    runs, seconds = (6, 0.5) if quick else (100, 2.0)
    seen: list[Latency] = []
    loops: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [write_network(Path(folder) / f"{width}.onnx", width) for width in WIDTHS]
        for number in range(runs):
            file = files[number % len(files)]
            seen.append(latency([file, file], Target(), seconds=seconds)[1])
            loops.append(naive_ratio(file, seconds / 4))
            say(f"{number + 1}/{runs} {file.stem}: {seen[-1].verdict} {seen[-1].ratio:.4f}, loops {loops[-1]:.4f}")
    same = sum(one.verdict == "same" for one in seen) / runs
    return Result(
        value=same,
        unit="fraction of A/A runs called same",
        goal="at least 0.95",
        met=same >= ENOUGH,
        peer={"name": "two loops, means within 2 %", "value": sum(abs(r - 1) <= 0.02 for r in loops) / runs},
        seeds=(),
        detail=detail(seen, loops),
    )


def detail(seen: Sequence[Latency], loops: Sequence[float]) -> dict[str, object]:
    """Return what lies behind the value."""
    ratios, widths = np.array([one.ratio for one in seen]), [one.ratio_high - one.ratio_low for one in seen]
    holds = [one.ratio_low <= 1 <= one.ratio_high for one in seen]
    return {
        "runs": len(seen),
        "verdicts": dict(Counter(str(one.verdict) for one in seen)),
        "largest_deviation": float(np.abs(ratios - 1).max()),
        "median_interval_width": float(np.median(widths)),
        "intervals_that_hold_1": float(np.mean(holds)),
        "largest_deviation_of_loops": float(np.abs(np.array(loops) - 1).max()),
        "median_ms": {str(width): seen[i].median_ms for i, width in enumerate(WIDTHS)},
        "load_average": {"median": float(np.median([s.load_average for s in seen])),
                         "max": max(s.load_average for s in seen)},
        "noise": {"median": float(np.median([s.noise for s in seen])), "max": max(s.noise for s in seen)},
    }  # fmt: skip


def naive_ratio(file: Path, seconds: float) -> float:
    """Return mean / mean of two loops, one after the other."""
    import onnxruntime

    means = []
    for _ in range(2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feed = {node.name: np.zeros((1, *node.shape[1:]), np.float32) for node in session.get_inputs()}
        for _ in range(10):
            session.run(None, feed)
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            session.run(None, feed)
            calls += 1
        means.append((time.perf_counter() - start) / calls)
    return means[1] / means[0]


def write_network(path: Path, width: int) -> Path:
    """Write four 3x3 convolutions with ReLU on (batch, width, 16, 16), random weights."""
    generator = np.random.default_rng(0)
    weights = [generator.normal(0, (9 * width) ** -0.5, (width, width, 3, 3)).astype(np.float32) for _ in range(4)]
    nodes, last = [], "x"
    for i in range(4):
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width, 16, 16]) for n in ("x", last)]
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "convolutions", info[:1], info[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


if __name__ == "__main__":
    run("measure_aa", measure)
