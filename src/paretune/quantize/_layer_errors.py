"""What quantization did to each layer: the signal-to-noise ratio of its output, float graph against INT8 graph.

Run on the exported graphs themselves, without optimisation. Errors add up on the way: a layer's ratio is that of
all rounding up to and including its own, so look at where it falls, not at how low it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from paretune.errors import InputError
from paretune.export import session
from paretune.quantize._canonical import canonical
from paretune.quantize._graph import producers
from paretune.quantize._plan import LAYERS, module_of
from paretune.quantize._write import INTEGERS

EXACT_DB = 200.0
"""What stands for no error at all."""


def layer_errors(
    float_graph: onnx.ModelProto, int8_graph: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return {node, module, op, value, snr_db} for every node that computes in integers or rounds, in graph order.

    node: its name, the same in both graphs; module: the one that its weights are named after, empty without;
    value: the output compared, behind the ReLU or Clip that its grid took in; snr_db: 10 log10(sum x^2 /
    sum (x - quantized)^2), at most 200. Both graphs with their names, unstripped.
    """
    reference = canonical(float_graph)
    probes, probed = _probes(reference.graph, int8_graph)
    if not probes:
        raise InputError(
            "quantize.layer_errors: the two graphs share no names of values; give the float graph that was "
            "quantized and the INT8 graph before its names are stripped"
        )
    names = [probe["value"] for probe in probes]
    expected = session(reference.SerializeToString(), optimize=False, outputs=names).run(names, dict(feeds))
    outputs = [name + PROBE for name in names]
    found = session(probed.SerializeToString(), optimize=False, outputs=outputs).run(outputs, dict(feeds))
    return [
        probe | {"snr_db": snr_db(np.asarray(e), np.asarray(f))}
        for probe, e, f in zip(probes, expected, found, strict=True)
    ]


PROBE = ":probe"


def snr_db(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB, between -200 and 200; 200 where nothing differs."""
    signal = float(np.square(expected, dtype=np.float64).sum())
    noise = float(np.square(expected.astype(np.float64) - found).sum())
    if noise == 0:
        return EXACT_DB
    ratio = 10 * np.log10(max(signal, 1e-300) / noise)
    return float(np.clip(ratio, -EXACT_DB, EXACT_DB))


def _probes(reference: onnx.GraphProto, model: onnx.ModelProto) -> tuple[list[dict[str, Any]], onnx.ModelProto]:
    """Return what to compare, and the INT8 graph with a dequantized probe `X:probe` for each compared value X."""
    known = set(producers(reference))
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    made = producers(model.graph)
    probes = []
    for node in model.graph.node:
        name = node.output[0]
        value = name.removesuffix(INTEGERS)
        if node.op_type == "QuantizeLinear" and value != name and value in known:
            source = made.get(node.input[0], node)
            if source.op_type == "DequantizeLinear":  # a ReLU behind a value that others read too
                source = node
            probe = onnx.helper.make_node("DequantizeLinear", [name, *node.input[1:]], [value + PROBE])
        elif node.name and name in known and _returns_float(node, made):
            source = node
            probe = onnx.helper.make_node("Identity", [name], [value + PROBE])
        else:
            continue
        module = module_of(source) if source.op_type in LAYERS else ""
        probes.append({"node": source.name, "module": module, "op": source.op_type, "value": value})
        probed.graph.node.append(probe)
    return probes, probed


def _returns_float(node: onnx.NodeProto, made: dict[str, onnx.NodeProto]) -> bool:
    """Return whether a layer computes in integers; of those only what returns float has kept its output's name."""
    weights = made.get(node.input[1]) if node.op_type in LAYERS else None
    return weights is not None and weights.op_type == "DequantizeLinear"
