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
from paretune.quantize._write import INTEGERS

EXACT_DB = 200.0
"""What stands for no error at all."""


def layer_errors(
    float_graph: onnx.ModelProto, int8_graph: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return {node, op, value, snr_db} for every node whose output was given a grid, in graph order.

    node: its name, the same in both graphs; value: the output compared, behind the ReLU or Clip that its grid took
    in. snr_db: 10 log10(sum x^2 / sum (x - quantized)^2), at most 200. Both graphs with their names, unstripped.
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
        value = node.output[0].removesuffix(INTEGERS) if node.op_type == "QuantizeLinear" else ""
        if not value or value not in known or not node.output[0].endswith(INTEGERS):
            continue
        source = made.get(node.input[0], node)
        if source.op_type == "DequantizeLinear":  # a ReLU behind a value that others read too
            source = node
        probes.append({"node": source.name, "op": source.op_type, "value": value})
        parameters = [node.output[0], *node.input[1:]]
        probed.graph.node.append(onnx.helper.make_node("DequantizeLinear", parameters, [value + PROBE]))
    return probes, probed
