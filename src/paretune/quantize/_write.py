"""A float graph with ranges -> the same graph with QuantizeLinear and DequantizeLinear nodes.

What ONNX Runtime turns into integer kernels is a node whose inputs all come from DequantizeLinear and whose only
reader is a QuantizeLinear. Written for few bytes: a value is quantized once and dequantized once however many
nodes read it, a zero point of 0 is left out (as the standard allows), equal zero points are shared, carriers move
the integers themselves, and a bias's scale, input scale * weight scale, is a Mul that is folded at load.

Names: `X` is what readers of X read, as in the float graph; `X:q` its integers; `X:raw` what its node made before
rounding. Weights keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from paretune.quantize._graph import array, attribute, constants, prune, reads
from paretune.quantize._grid import affine, quantize_bias, quantize_weight, scales_for_bias, weight_scales
from paretune.quantize._plan import Plan

INTEGERS = ":q"


@dataclass(frozen=True)
class Grid:
    """A value's integers: the tensor that holds them, its scale and zero point, and their initializers' names."""

    integers: str
    scale: np.float32
    zero_point: int
    scale_name: str
    zero_name: str
    """Empty where the zero point is 0."""

    def on(self, integers: str) -> Grid:
        """Return the same grid for other integers."""
        return Grid(integers, self.scale, self.zero_point, self.scale_name, self.zero_name)

    def parameters(self) -> list[str]:
        """Return the names of scale and zero point, as inputs of a node."""
        return [self.scale_name, self.zero_name] if self.zero_name else [self.scale_name]


class Writer:
    """Rewrites one graph; nodes are handed over in their order."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        plan: Plan,
        ranges: Mapping[str, tuple[float, float]],
        *,
        largest: int = 127,
        per_channel: bool = True,
    ) -> None:
        self.graph, self.plan, self.ranges = graph, plan, ranges
        self.largest, self.per_channel = largest, per_channel
        self.constants = constants(graph)
        self.nodes: list[onnx.NodeProto] = []
        self.grids: dict[str, Grid] = {}
        self.defined = {value.name for value in graph.input} | set(self.constants)
        self.dequantized: dict[str, str] = {}
        self.weights: dict[tuple[str, int | None, bytes], tuple[str, np.ndarray, str]] = {}
        self.made: set[str] = set()
        # ONNX Runtime 1.32 makes a QGemm only where both zero points are written out, even if they are 0
        self.explicit = {
            node.input[0] for node in graph.node if node.op_type == "Gemm" and node.output[0] in plan.compute
        }

    def write(self) -> None:
        """Replace the graph's nodes and remove what nothing reads any more."""
        for node in list(self.graph.node):
            self._node(node)
        for value in self.graph.output:
            self._real(value.name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        prune(self.graph)

    def _node(self, node: onnx.NodeProto) -> None:
        output = node.output[0] if node.output else ""
        if output in self.plan.bounds:
            self._bound(node)
        elif output in self.plan.carriers or (node.op_type == "Concat" and self._one_grid(node)):
            self._carry(node)
        elif output in self.plan.compute or output in self.plan.joins:
            self._compute(node)
        else:
            self._float(node)

    def _float(self, node: onnx.NodeProto) -> None:
        """Keep a node as it is; what it reads exists in float under its own name."""
        for name in reads(node):
            self._real(name)
        kept = _copy(node)
        if node.output and node.output[0] in self.plan.stored:
            kept.input[1] = self._stored_weight(node.input[1], self.plan.stored[node.output[0]])
        self.nodes.append(kept)
        self.defined.update(node.output)

    def _bound(self, node: onnx.NodeProto) -> None:
        """Let a ReLU or Clip vanish: its input's grid ends at its bounds, or it gets a grid of its own."""
        output = node.output[0]
        if output in self.plan.absorbed.values():
            self.grids[output] = self.grids[node.input[0]]
        else:
            self._quantize(output, self._rounded(node.input[0]))

    def _carry(self, node: onnx.NodeProto) -> None:
        """Let a node move the integers."""
        grid = self._integers(node.input[0])
        moved = _copy(node)
        for place, name in enumerate(node.input if node.op_type == "Concat" else node.input[:1]):
            moved.input[place] = self._integers(name).integers
        if node.op_type == "Pad" and attribute(node, "mode", b"constant") == b"constant":
            self._pad_with_zero_point(moved, grid)
        for place, name in enumerate(node.output):
            if name:
                moved.output[place] = name + INTEGERS
                self.grids[name] = grid.on(name + INTEGERS)
        self.nodes.append(moved)

    def _compute(self, node: onnx.NodeProto) -> None:
        """Let a node read dequantized inputs, and quantize what it makes."""
        output = node.output[0]
        computed = _copy(node)
        if output in self.plan.joins:
            computed.input[:] = [self._rounded(name) for name in node.input]
        else:
            computed.input[0] = self._rounded(node.input[0])
            self._weights(computed, self.grids[node.input[0]], self.plan.compute[output])
        self.nodes.append(computed)
        name = self.plan.absorbed.get(output, output)
        if name not in self.ranges:
            self.defined.add(output)
            return
        computed.output[0] = f"{output}:raw"
        self._quantize(name, computed.output[0])
        self.grids[output] = self.grids[name]

    def _weights(self, node: onnx.NodeProto, grid: Grid, axis: int) -> None:
        """Store a node's weights as int8 and its bias as int32, both behind a DequantizeLinear."""
        channel = axis if self.per_channel else None
        values = array(self.constants[node.input[1]])
        scales = weight_scales(values, channel, self.largest)
        bias = array(self.constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None:
            scales = scales_for_bias(scales, bias, grid.scale)
        if node.op_type == "Conv" and scales.ndim and np.all(scales == scales[0]):
            scales, channel = scales[0], None  # an average pool: one number says it all
        name, scales_name = self._int8(node.input[1], values, scales, channel)
        zeros = [self._initializer(f"zeros{INTEGERS}{scales.size}", np.zeros_like(scales, np.int8))]
        parameters = [scales_name, *(zeros if node.op_type == "Gemm" else ())]
        node.input[1] = self._dequantize(name, parameters, f"{name}:real", channel)
        if bias is not None:
            product = f"{scales_name}*{grid.scale_name}"
            if product not in self.made:
                self.made.add(product)
                self.nodes.append(helper.make_node("Mul", [scales_name, grid.scale_name], [product]))
            integers = self._initializer(f"{node.input[2]}:{product}", quantize_bias(bias, scales * grid.scale))
            node.input[2] = self._dequantize(
                integers, [product], f"{integers}:real", None if channel is None else 0
            )

    def _stored_weight(self, weight: str, axis: int) -> str:
        """Store weights as int8 behind Cast and Mul: ONNX Runtime folds these at load, and computes in float."""
        values = array(self.constants[weight])
        channel = axis if self.per_channel else None
        scales = weight_scales(values, channel)
        shape = [-1 if a == channel else 1 for a in range(values.ndim)]
        name, _ = self._int8(
            weight, values, scales, channel, named=False, largest=127
        )  # float sums do not saturate
        wide = self._initializer(f"{name}:scales", scales if channel is None else scales.reshape(shape))
        real = f"{name}:real"
        if real not in self.made:
            self.made.add(real)
            self.nodes.append(helper.make_node("Cast", [name], [f"{name}:float"], to=onnx.TensorProto.FLOAT))
            self.nodes.append(helper.make_node("Mul", [f"{name}:float", wide], [real]))
        return real

    def _int8(
        self,
        weight: str,
        values: np.ndarray,
        scales: np.ndarray,
        axis: int | None,
        named: bool = True,
        largest: int | None = None,
    ) -> tuple[str, str]:
        """Return the names of int8 weights and of their scales; made once for nodes that share both."""
        largest = self.largest if largest is None else largest
        key = (weight, axis, scales.tobytes())
        if key not in self.weights:
            again = sum(other[0] == weight for other in self.weights)
            name = self._initializer(
                f"{weight}{INTEGERS}{again or ''}", quantize_weight(values, scales, axis, largest)
            )
            self.weights[key] = name, scales, self._initializer(f"{name}:scale", scales) if named else ""
        name, _, scales_name = self.weights[key]
        return name, scales_name

    def _quantize(self, name: str, source: str) -> None:
        """Round the float value `source` onto the grid of `name`."""
        scale, zero_point = affine(*self.ranges[name])
        zero_name = self._initializer(f"zero{INTEGERS}{zero_point}", np.uint8(zero_point)) if zero_point else ""
        grid = Grid(name + INTEGERS, scale, zero_point, self._initializer(f"{name}:scale", scale), zero_name)
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *grid.parameters()], [grid.integers]))
        self.grids[name] = grid

    def _integers(self, name: str) -> Grid:
        """Return the grid of a value, quantizing what a float node made or the caller feeds."""
        if name not in self.grids:
            self._quantize(name, name)
        return self.grids[name]

    def _rounded(self, name: str) -> str:
        """Return the name of a value's float form after rounding."""
        grid = self._integers(name)
        if grid.integers not in self.dequantized:
            free = name if name not in self.defined else f"{name}:real"
            zero_name = self._initializer(f"zero{INTEGERS}0", np.uint8(0)) if name in self.explicit else ""
            parameters = [grid.scale_name, *filter(None, [grid.zero_name or zero_name])]
            self.dequantized[grid.integers] = self._dequantize(grid.integers, parameters, free)
            self.defined.add(free)
        return self.dequantized[grid.integers]

    def _real(self, name: str) -> None:
        """Make sure that a value exists in float under its own name, if this graph makes it."""
        if name in self.defined or name not in self.grids:
            return
        rounded = self._rounded(name)
        if rounded != name:  # two names of one value: a ReLU that is a graph output and vanished, say
            self.nodes.append(helper.make_node("Identity", [rounded], [name]))
            self.defined.add(name)

    def _dequantize(self, name: str, parameters: list[str], output: str, axis: int | None = None) -> str:
        if output not in self.made:
            self.made.add(output)
            node = helper.make_node("DequantizeLinear", [name, *parameters], [output])
            if axis not in (None, 1):  # 1 is the default
                node.attribute.append(helper.make_attribute("axis", axis))
            self.nodes.append(node)
        return output

    def _pad_with_zero_point(self, node: onnx.NodeProto, grid: Grid) -> None:
        inputs = [*node.input, "", ""][:4]
        inputs[2] = grid.zero_name
        while not inputs[-1]:
            inputs.pop()
        node.input[:] = inputs

    def _one_grid(self, node: onnx.NodeProto) -> bool:
        """Return whether a Concat's inputs share one grid, so that it moves integers like a carrier."""
        if node.output[0] not in self.plan.joins or node.output[0] in self.plan.absorbed:
            return False
        grids = [self._integers(name) for name in node.input]
        return len({(float(grid.scale), grid.zero_point) for grid in grids}) == 1

    def _initializer(self, name: str, values: np.ndarray | np.generic) -> str:
        if name not in self.made:
            self.made.add(name)
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
