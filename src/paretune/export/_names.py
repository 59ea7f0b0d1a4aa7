"""Names in an ONNX graph: every value, renamed at once in all nested graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph nested in its nodes (branches of If, bodies of Loop and Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            nested = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
            for inner in nested:
                yield from graphs_of(inner)


def values_of(graph: onnx.GraphProto) -> list[str]:
    """Return the name of every value, in order: inputs, initializers, node outputs, nested graphs included."""
    names: dict[str, None] = {}
    for part in graphs_of(graph):
        names.update(dict.fromkeys(value.name for value in part.input))
        names.update(dict.fromkeys(tensor.name for tensor in part.initializer))
        names.update(dict.fromkeys(tensor.values.name for tensor in part.sparse_initializer))
        names.update(dict.fromkeys(name for node in part.node for name in node.output if name))
    return list(names)


def rename_values(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    """Rename values in place wherever they are made, read or declared; `new` is old name -> new name.

    A value that is not in `new` must not bear one of the new names.
    """
    for part in graphs_of(graph):
        for value in [*part.input, *part.output, *part.value_info]:
            value.name = new.get(value.name, value.name)
        for tensor in part.initializer:
            tensor.name = new.get(tensor.name, tensor.name)
        for sparse in part.sparse_initializer:
            sparse.values.name = new.get(sparse.values.name, sparse.values.name)
        for annotation in part.quantization_annotation:
            annotation.tensor_name = new.get(annotation.tensor_name, annotation.tensor_name)
        for node in part.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
