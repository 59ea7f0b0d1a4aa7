"""Static INT8 quantization of an exported graph, after training, written as Q/DQ nodes by ourselves.

Source: Jacob et al., CVPR 2018, sections 2 and 3, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295.
Unsigned asymmetric activations with one grid a tensor, signed symmetric weights with one a channel, int32 biases.
On x86 unsigned activations are what makes it fast: ResNet-20 with signed ones ran at 0.63x of FP32's speed in
ONNX Runtime, with unsigned ones at 1.9x. Convolutions are never quantized dynamically. Not for a net whose time
goes into operators other than convolutions and matrix products: each grid costs two conversions to be won back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import onnx

from paretune.errors import InputError, nearest
from paretune.feeds import feeds
from paretune.methods import find
from paretune.quantize._canonical import canonical
from paretune.quantize._graph import constants, opset
from paretune.quantize._observe import observe
from paretune.quantize._plan import Plan, channel_axis, left_in_float, make_plan, module_of, skipped
from paretune.quantize._write import Writer
from paretune.recipe import Context, GraphStep, Range, check_ranges
from paretune.target import fingerprint
from paretune.task import Task

BATCH = 16
"""Samples in one calibration run: what one run keeps in memory is every observed value of so many samples."""


def static(
    graph: onnx.ModelProto,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    bits: int = 8,
    method: str = "mse",
    percentile: float = 99.99,
    per_channel: bool = True,
    reduce_range: bool | Literal["auto"] = "auto",
    skip: Sequence[str] = (),
) -> onnx.ModelProto:
    """Return a new graph that computes in INT8 what ONNX Runtime has integer kernels for; its ends stay float.

    graph: a float graph as exported, opset 13 or newer. batches: input name -> array, read once.
    method: a name of `calibrations`; percentile: for the method of that name.
    per_channel: one weight scale for each output channel, not one in all.
    reduce_range: 7-bit weights, because 8-bit products saturate on x86 without VNNI; "auto" asks the CPU for it.
    skip: globs over node names, or over module names (`layer1.*`), that stay in float.
    """
    if bits != 8:
        raise InputError(f"quantize.static: bits={bits}: only 8 computes faster than float here; bits=8")
    if opset(graph) < 13:
        raise InputError(
            f"quantize.static: the graph is in opset {opset(graph)}; per-channel grids need 13: export it anew"
        )
    model = canonical(graph)
    _check_skip(model.graph, skip)
    plan = make_plan(model.graph, skip)
    if not plan.compute and not plan.stored:
        raise InputError(_nothing(model.graph, skip))
    choose = find("calibrations", method)
    if method == "percentile":
        choose = partial(choose, percentile=percentile)
    ranges = _ranges(model, plan, batches, choose)
    reduced = saturates(fingerprint()) if reduce_range == "auto" else reduce_range
    Writer(model.graph, plan, ranges, largest=64 if reduced else 127, per_channel=per_channel).write()
    return model


def _ranges(
    model: onnx.ModelProto, plan: Plan, batches: Iterable[Any], choose: Any
) -> dict[str, tuple[float, float]]:
    """Return the range of every observed value, within the bounds of the ReLU or Clip that vanishes into it."""
    if not plan.observed:
        return {}
    found = {}
    for name, histogram in observe(model, plan.observed, batches).items():
        low, high = plan.bounds.get(name, (float("-inf"), float("inf")))
        chosen = choose(histogram)
        found[name] = max(chosen[0], low), min(chosen[1], high)
    return found


def _check_skip(graph: onnx.GraphProto, skip: Sequence[str]) -> None:
    """Raise for a glob that matches nothing: a typing error must not quantize a layer that was to stay."""
    for glob in skip:
        if not any(skipped(node, [glob]) for node in graph.node):
            names = {name for node in graph.node for name in (node.name, module_of(node)) if name}
            raise InputError(
                f"quantize.static: skip '{glob}' matches no node and no module of the graph.{nearest(glob, names)}"
            )


def _nothing(graph: onnx.GraphProto, skip: Sequence[str]) -> str:
    known = constants(graph)
    if skip and any(channel_axis(node, known) is not None for node in graph.node):
        return f"quantize.static: skip {', '.join(skip)} leaves nothing to quantize; skip less, or drop this step"
    return (
        "quantize.static: nothing to quantize: the graph has no Conv, Gemm or MatMul with constant float32 "
        "weights; drop this step"
    )


@final
@dataclass(frozen=True, kw_only=True)
class Static(GraphStep):
    """Compute in INT8: quantize weights and activations after training, calibrated on training samples."""

    name: ClassVar[str] = "quantize.static"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)

    bits: Literal[8] = 8
    """Of weights and activations; the only width that ONNX Runtime's CPU kernels are faster in."""
    calibration: Annotated[int, Range(1, 1_000_000)] = 256
    """Samples to calibrate on, drawn from the training data (validation data where there are none)."""
    method: str = "mse"
    """A name that `paretune methods calibrations` lists."""
    percentile: Annotated[float, Range(50, 100, low_open=True)] = 99.99
    """Of the values seen, what the range holds; for method percentile."""
    per_channel: bool = True
    """One weight scale for each output channel."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights, because 8-bit products saturate on x86 without VNNI; auto looks at the CPU's flags."""
    skip: tuple[str, ...] = ()
    """Globs over node or module names that stay in float: `layer1.0.*`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        find("calibrations", self.method)

    def apply_graph(self, graph: onnx.ModelProto, task: Task, context: Context) -> onnx.ModelProto:
        """Return the INT8 graph; the float one is not changed."""
        if self.reduce_range == "auto" and saturates(fingerprint()):
            note = "this CPU has no VNNI: 8-bit products would saturate, so weights have 7 bits (reduce_range)"
            context.emit("note", {"step": self.name, "text": note})
        model = canonical(graph)
        for note in left_in_float(model.graph, make_plan(model.graph, self.skip), self.skip):
            context.emit("note", {"step": self.name, "text": note})
        return static(
            graph,
            calibration_batches(graph, task, self.calibration, context.seed),
            bits=self.bits,
            method=self.method,
            percentile=self.percentile,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            skip=self.skip,
        )


def saturates(machine: dict[str, Any]) -> bool:
    """Return whether a machine's int8 kernels add pairs of products in 16 bits: x86 with neither VNNI nor AMX.

    255 * 127 + 255 * 127 does not fit in 16 bits; with |weight| <= 64 it does.
    """
    if str(machine["architecture"]).lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not any("vnni" in flag or "amx_int8" in flag for flag in machine["flags"])


def calibration_batches(
    graph: onnx.ModelProto, task: Task, samples: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the first `samples` training samples in the order that the seed gives, as the graph's inputs.

    A graph with a fixed batch gets batches of that size, and what does not fill one is left out.
    """
    split = "train" if task.train is not None else "val"
    known = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in known]
    names = [value.name for value in inputs]
    axes = inputs[0].type.tensor_type.shape.dim if inputs else []
    fixed = axes[0].dim_value if axes and axes[0].HasField("dim_value") else None
    for batch, _ in task.data(split).batches(batch_size=fixed or BATCH, shuffle=(seed, 0), limit=samples):
        fed = feeds(names, batch)
        if fixed is None or len(fed[names[0]]) == fixed:
            yield fed
