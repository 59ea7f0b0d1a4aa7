"""Strip an ONNX file to what a runtime needs.

What torch.onnx's exporter adds for readers (metadata, stack traces, shapes of every value, long names) was
64 KB of a ResNet-20: below 300 KB that weighs more than a bit of weight precision. Stripping comes last: names
and metadata map nodes back to modules until then.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from paretune.export._names import graphs_of, rename_values, values_of

_LETTERS = string.ascii_letters + "_"


def strip(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a smaller copy that computes exactly the same; the one given is not changed.

    Gone: metadata, doc strings, node names, unused initializers and operator sets, and the shapes of inner
    values that a runtime infers itself. A shape that it cannot infer (behind a computed Reshape) stays: ONNX
    Runtime fuses a transformer's skip connection with its norm only where it knows both shapes. Inner values
    get names of one or two letters; the graph's inputs and outputs keep theirs.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    model.doc_string = ""
    del model.metadata_props[:]
    _drop_unused(model)
    _drop_inferable_shapes(model)
    for part in graphs_of(model.graph):
        _strip_graph(part)
    model.graph.name = "g"
    _shorten(model)
    used = {node.domain for part in graphs_of(model.graph) for node in part.node} | {"", "ai.onnx"}
    used |= {function.domain for function in model.functions}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in kept)
    return model


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:], graph.quantization_annotation[:]
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
    for tensor in graph.initializer:
        _compact(tensor)


def _compact(tensor: onnx.TensorProto) -> None:
    """Keep a tensor's numbers as raw bytes: an int8 weight as a varint takes up to ten."""
    tensor.doc_string = ""
    del tensor.metadata_props[:]
    if tensor.raw_data or tensor.data_type == onnx.TensorProto.STRING or tensor.external_data:
        return
    raw = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    if raw.data_type == tensor.data_type and raw.ByteSize() < tensor.ByteSize():
        tensor.CopyFrom(raw)


def _drop_unused(model: onnx.ModelProto) -> None:
    read = {name for part in graphs_of(model.graph) for node in part.node for name in node.input}
    read |= {value.name for part in graphs_of(model.graph) for value in part.output}
    for part in graphs_of(model.graph):
        kept = [tensor for tensor in part.initializer if tensor.name in read]
        if len(kept) < len(part.initializer):
            slim = onnx.GraphProto()
            slim.initializer.extend(kept)
            del part.initializer[:]
            part.initializer.extend(slim.initializer)


def _drop_inferable_shapes(model: onnx.ModelProto) -> None:
    stated = {value.name: value for value in model.graph.value_info}
    for part in graphs_of(model.graph):
        del part.value_info[:]
    inferred = {
        value.name: value for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    }
    made = {name for node in model.graph.node for name in node.output}
    model.graph.value_info.extend(
        value
        for name, value in stated.items()
        if name in made and (name not in inferred or _shape(inferred[name]) != _shape(value))
    )


def _shape(value: onnx.ValueInfoProto) -> list[int | str] | None:
    tensor = value.type.tensor_type
    return [d.dim_param or d.dim_value for d in tensor.shape.dim] if tensor.HasField("shape") else None


def _shorten(model: onnx.ModelProto) -> None:
    public = {value.name for value in [*model.graph.input, *model.graph.output]}
    fresh = (name for name in _short_names() if name not in public)
    rename_values(model.graph, {old: next(fresh) for old in values_of(model.graph) if old not in public})


def _short_names() -> Iterator[str]:
    """Yield a, b, ..., _, aa, ab, ..."""
    length = 1
    while True:
        for number in range(len(_LETTERS) ** length):
            digits = []
            for _ in range(length):
                number, digit = divmod(number, len(_LETTERS))
                digits.append(_LETTERS[digit])
            yield "".join(reversed(digits))
        length += 1
