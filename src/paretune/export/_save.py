"""Write an ONNX graph as one file."""

from __future__ import annotations

from pathlib import Path

import onnx

from paretune.errors import InputError
from paretune.export._names import graphs_of
from paretune.files import write_bytes

_LIMIT = 2**31 - 1  # what one protobuf message can hold


def save(graph: onnx.ModelProto, path: Path) -> Path:
    """Check a graph and write it atomically, weights inside: an artifact is one file, and its size is its bytes.

    A graph above 2 GB, or one whose weights lie in other files, is an InputError.
    """
    path = Path(path)
    beside = [t.name for part in graphs_of(graph.graph) for t in part.initializer if t.external_data]
    if beside:
        raise InputError(
            f"{path.name}: the weights of '{beside[0]}' lie in another file; load them first "
            "(onnx.load does), an artifact is one file"
        )
    if graph.ByteSize() > _LIMIT:
        raise InputError(f"{path.name}: {graph.ByteSize()} bytes; one ONNX file holds at most {_LIMIT}")
    onnx.checker.check_model(graph)
    write_bytes(path, graph.SerializeToString(deterministic=True))
    return path
