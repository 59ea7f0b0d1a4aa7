"""Which nodes of a graph compute in integers, and which values need a grid of their own.

Three kinds of node take part:
- compute: Conv, Gemm and MatMul with constant float32 weights, unless skipped. ONNX Runtime has integer kernels
  for them; a product of two activations (attention) stays in float, where it costs the least accuracy.
- joins: Add, Mul, Concat and average pools, between quantized nodes only; their output has its own grid.
- carriers: Reshape, Slice, MaxPool, Pad with zeros, ... move integers without changing them: input and output
  share one grid, and no Quantize/Dequantize pair is needed at all.
A ReLU or Clip after a quantized node is no node any more: its bounds become the ends of the grid, where
rounding saturates anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import onnx

from paretune.quantize._graph import array, attribute, constants, producers, reader_counts, reads

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
JOINS = ("Add", "Mul", "Concat")
POOLS = ("AveragePool", "GlobalAveragePool")
CARRIERS = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


@dataclass
class Plan:
    """What becomes of each node, by the name of its first output."""

    compute: dict[str, int] = field(default_factory=dict)
    """Node -> the axis of its weights that counts output channels."""
    stored: dict[str, int] = field(default_factory=dict)
    """ConvTranspose, for which ONNX Runtime has no integer kernel: weights stored as int8, computed in float."""
    joins: set[str] = field(default_factory=set)
    carriers: set[str] = field(default_factory=set)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The output of a ReLU or Clip that vanishes into a grid -> its bounds."""
    absorbed: dict[str, str] = field(default_factory=dict)
    """The output of a quantized node -> that of the ReLU or Clip behind it: only carriers stand between."""
    observed: list[str] = field(default_factory=list)
    """Values that need a range, in graph order."""

    def quantized(self, output: str) -> bool:
        """Return whether the node with this first output takes quantized inputs."""
        return output in self.compute or output in self.joins or output in self.carriers or output in self.bounds


def make_plan(graph: onnx.GraphProto, skip: Sequence[str] = ()) -> Plan:
    """Decide for every node of a canonical graph; `skip` holds globs over names of nodes and of modules."""
    plan, known = Plan(), constants(graph)
    for node in graph.node:
        if node.output and (axis := channel_axis(node, known)) is not None and not skipped(node, skip):
            (plan.stored if node.op_type == "ConvTranspose" else plan.compute)[node.output[0]] = axis
    _settle(graph, plan, known, skip)
    _absorb(graph, plan)
    plan.observed = _observed(graph, plan, known)
    return plan


def channel_axis(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int | None:
    """Return the axis of a node's constant float32 weights that counts output channels; None where none does."""
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx"):
        return None
    parameters = [name for name in node.input[1:] if name]
    if not all(name in known and known[name].data_type == onnx.TensorProto.FLOAT for name in parameters):
        return None
    if node.input[0] in known or 0 in known[parameters[0]].dims:
        return None
    if node.op_type == "MatMul":
        return 1 if len(known[parameters[0]].dims) == 2 else None
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        vector = len(parameters) < 2 or len(known[parameters[1]].dims) == 1
        whole = vector and (len(parameters) < 2 or known[parameters[1]].dims[0] == _width(node, known))
        return (
            (1 - int(attribute(node, "transB", 0)))
            if plain and whole and not attribute(node, "transA", 0)
            else None
        )
    return 0 if node.op_type == "Conv" else 1


def _width(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int:
    return int(known[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1])


def left_in_float(graph: onnx.GraphProto, plan: Plan, skip: Sequence[str] = ()) -> list[str]:
    """Return, in a sentence each, which layers with weights do not compute in integers though nobody asked so."""
    known, found = constants(graph), []
    for node in graph.node:
        weights = len(node.input) > 1 and node.input[1] in known
        if node.op_type not in LAYERS or not weights or skipped(node, skip) or node.output[0] in plan.compute:
            continue
        why = (
            "ONNX Runtime has no integer kernel; its weights are stored in 8 bits"
            if node.output[0] in plan.stored
            else "its weights, bias or attributes are of a kind that the integer kernels do not take"
        )
        found.append(f"{module_of(node) or node.name} ({node.op_type}) computes in float: {why}")
    return found


def module_of(node: onnx.NodeProto) -> str:
    """Return the module that a node's weights are named after: `layer1.0.conv1` for `layer1.0.conv1.weight`."""
    return node.input[1].rpartition(".")[0] if len(node.input) > 1 else ""


def skipped(node: onnx.NodeProto, skip: Sequence[str]) -> bool:
    """Return whether a glob matches the node's name or its module's."""
    return any(fnmatchcase(name, glob) for glob in skip for name in (node.name, module_of(node)) if name)


def _settle(graph: onnx.GraphProto, plan: Plan, known: dict[str, onnx.TensorProto], skip: Sequence[str]) -> None:
    """Let joins, carriers and bounds take part, then take those back that would stand alone, until none would."""
    made = producers(graph)
    candidates: dict[str, list[str]] = {}
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and not skipped(node, skip):
            _propose(node, plan, known, candidates)
    wanted = {node.input[0] for node in graph.node if node.output and node.output[0] in plan.compute}

    def available(name: str) -> bool:
        return name in wanted or (name in made and plan.quantized(made[name].output[0]))

    def alone(output: str, inputs: list[str], readers: set[str]) -> bool:
        """Nothing quantized reads it, and what it reads could stay in float: a grid would only cost accuracy."""
        source = made.get(inputs[0])
        optional = made[output].op_type in JOINS or (source is not None and source.op_type in ("Gemm", "MatMul"))
        return optional and readers.isdisjoint(made[output].output)

    while True:
        readers = _quantized_readers(graph, plan)
        lost = [
            output
            for output, inputs in candidates.items()
            # a Concat may round what float nodes make: it would be rounded behind the Concat anyway
            if not (any if made[output].op_type == "Concat" else all)(available(name) for name in inputs)
            or alone(output, inputs, readers)
        ]
        if not lost:
            return
        for output in lost:
            del candidates[output]
            plan.joins.discard(output)
            plan.carriers.discard(output)
            plan.bounds.pop(output, None)


def _propose(
    node: onnx.NodeProto, plan: Plan, known: dict[str, onnx.TensorProto], candidates: dict[str, list[str]]
) -> None:
    """Note a node that might take part, and the inputs that must then be quantized."""
    if not node.input or not node.output:
        return
    output = node.output[0]
    if node.op_type in JOINS and not any(name in known for name in node.input):
        plan.joins.add(output)
        candidates[output] = list(node.input)
    elif node.op_type in POOLS:
        plan.joins.add(output)
        candidates[output] = [node.input[0]]
    elif node.op_type in CARRIERS and _carries(node, known):
        plan.carriers.add(output)
        candidates[output] = [node.input[0]]
    elif (bounds := _bounds(node, known)) is not None:
        plan.bounds[output] = bounds
        candidates[output] = [node.input[0]]


def _carries(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> bool:
    """Return whether a node moves integers as it moves floats."""
    if node.input[0] in known:
        return False
    if node.op_type == "MaxPool":
        return len([name for name in node.output if name]) == 1
    if node.op_type != "Pad":
        return True
    if attribute(node, "mode", b"constant") != b"constant":
        return True
    value = node.input[2] if len(node.input) > 2 else ""
    return not value or (value in known and not array(known[value]).any())


def _bounds(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> tuple[float, float] | None:
    """Return the bounds of a ReLU or Clip that hold 0, as every grid does; None for other nodes."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip" or not all(name in known for name in node.input[1:] if name):
        return None
    ends = [float("-inf"), float("inf")]
    for place, name in enumerate(node.input[1:3]):
        if name:
            ends[place] = float(array(known[name]).ravel()[0])
    return (ends[0], ends[1]) if ends[0] <= 0 <= ends[1] and np.ptp(np.clip(ends, -1, 1)) > 0 else None


def _quantized_readers(graph: onnx.GraphProto, plan: Plan) -> set[str]:
    """Return the values that some compute node or join reads, through carriers and bounds that do."""
    read: set[str] = set()
    for node in reversed(graph.node):
        output = node.output[0] if node.output else ""
        passes = output in plan.carriers or output in plan.bounds
        if output in plan.joins:
            read.update(node.input)
        elif output in plan.compute or (passes and not read.isdisjoint(node.output)):
            read.add(node.input[0])
    return read


def _absorb(graph: onnx.GraphProto, plan: Plan) -> None:
    """Let a ReLU or Clip vanish into the grid of the quantized node before it, if nothing else reads between.

    Carriers may stand between: to clip before a MaxPool, a Reshape or a Pad with 0 is to clip after it.
    """
    counts, made = reader_counts(graph), producers(graph)
    for output in plan.bounds:
        before = made[output].input[0]
        while counts[before] == 1 and before in plan.carriers and len(made[before].output) == 1:
            before = made[before].input[0]
        if counts[before] == 1 and (before in plan.compute or before in plan.joins):
            plan.absorbed[before] = output


def _observed(graph: onnx.GraphProto, plan: Plan, known: dict[str, onnx.TensorProto]) -> list[str]:
    """Return the values that get a grid: what quantized nodes make, and what enters them from float ones.

    What a Gemm or MatMul makes gets one only if an integer node reads it: its kernels can return float as well,
    and an output of the graph, logits or a regression, is then neither rounded nor clipped.
    """
    read = {name for node in graph.node if node.output and plan.quantized(node.output[0]) for name in reads(node)}
    made = producers(graph)
    values: dict[str, None] = {}
    for node in graph.node:
        if not node.output:
            continue
        output = node.output[0]
        entering = list(node.input) if output in plan.joins else list(node.input[:1])
        for name in entering if plan.quantized(output) else ():
            if name not in made or not plan.quantized(made[name].output[0]):
                values[name] = None
        if output in plan.joins or (output in plan.compute and (node.op_type == "Conv" or output in read)):
            values[plan.absorbed.get(output, output)] = None
        elif output in plan.bounds:
            values[output] = None
    return list(values)
