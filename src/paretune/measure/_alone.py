"""One operator alone, as a model that can be timed: a convolution stands between two small ones.

Runtimes keep images in blocks of channels from one convolution to the next. A convolution by itself would be
charged with the changes of layout at the model's ends; between two others it is charged with those that its own
widths call for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paretune.measure._engine import Event
from paretune.measure._operators import Convolution, Operator, Product

Shapes = dict[str, tuple[int, ...]]

ALIGNED = 16
"""Channels of the neighbours of a convolution that is timed: a multiple of every block that kernels work on."""
ENTERS = 4
"""A convolution that reads at most so many channels reads the model's input, in the input's layout."""
OPSET = 18
BEFORE, MIDDLE, AFTER = "before", "middle", "after"
"""Names of the values that three convolutions in a row make: runtimes name what they run after them."""


def alone(operator: Operator) -> tuple[bytes, Shapes]:
    """Return a model that runs an operator, and the shapes of its inputs."""
    return _convolution(operator) if isinstance(operator, Convolution) else _product(operator)


def own(events: list[Event]) -> list[Event]:
    """Return what is run of the operator, and to change the layout of what it reads."""
    names = [event.name for event in events]
    middle = next((i for i, name in enumerate(names) if MIDDLE in name), len(names) - 1)
    first = next((i for i, name in enumerate(names) if BEFORE in name), -1)
    return events[first + 1 : middle + 1]


def _convolution(operator: Convolution) -> tuple[bytes, Shapes]:
    """Return the operator between two convolutions of 1x1, or behind the model's input, and the inputs' shapes."""
    space, nodes = len(operator.size), []
    given, initializers = "x", []
    enters = operator.reads <= ENTERS
    inputs = {"x": (operator.batch, operator.reads if enters else ALIGNED, *operator.size)}
    if not enters:
        nodes.append(_conv("x", BEFORE, [1] * space))
        initializers.append(_weight(BEFORE, (operator.reads, ALIGNED, *[1] * space)))
        given = BEFORE
    each = (operator.makes // operator.groups, operator.reads // operator.groups)
    shape = (operator.reads, each[0]) if operator.transposed else (operator.makes, each[1])
    nodes.append(
        _conv(
            given,
            MIDDLE,
            operator.kernel,
            op="ConvTranspose" if operator.transposed else "Conv",
            strides=operator.stride,
            pads=(*operator.padding, *operator.padding),
            dilations=operator.dilation,
            group=operator.groups,
        )
    )
    initializers.append(_weight(MIDDLE, (*shape, *operator.kernel)))
    nodes.append(_conv(MIDDLE, AFTER, [1] * space))
    initializers.append(_weight(AFTER, (ALIGNED, operator.makes, *[1] * space)))
    return _model(nodes, initializers, inputs, AFTER), inputs


def _conv(given: str, makes: str, kernel: Iterable[int], op: str = "Conv", **how: Any) -> onnx.NodeProto:
    return helper.make_node(op, [given, f"{makes}.weight"], [makes], makes, kernel_shape=list(kernel), **how)


def _product(operator: Product) -> tuple[bytes, Shapes]:
    inputs: Shapes = {"x": (operator.stack, operator.rows, operator.inner)}
    right: tuple[int, ...] = (
        (operator.inner, operator.columns)
        if operator.constant
        else (operator.stack, operator.inner, operator.columns)
    )
    initializers = [_weight(MIDDLE, right)] if operator.constant else []
    if not operator.constant:
        inputs[f"{MIDDLE}.weight"] = right
    node = helper.make_node("MatMul", ["x", f"{MIDDLE}.weight"], [MIDDLE], MIDDLE)
    return _model([node], initializers, inputs, MIDDLE), inputs


def _weight(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32) / math.sqrt(
        max(1, math.prod(shape[1:]))
    )
    return numpy_helper.from_array(values, f"{name}.weight")


def _model(nodes: list[Any], initializers: list[Any], inputs: Shapes, output: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return bytes(model.SerializeToString())
