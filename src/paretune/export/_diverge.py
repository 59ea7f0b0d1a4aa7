"""Name the first node of a file whose value differs from what PyTorch computes there.

The file is run node by node, optimisations off, with every value exposed; the program that torch.export
captured is run by an interpreter on the same inputs. A stripped file has its nodes in the order of the exported
graph, which still knows the program's node and the module of each.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from paretune.data import tensors_of
from paretune.export._run import run_arrays, session
from paretune.export._worker import relative_error
from paretune.export._writer import Exported

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def first_divergence(model: bytes, exported: Exported, inputs: Any, tolerance: float) -> str:
    """Return the first diverging node with its operator, module and error, or why none can be named.

    model: the file's content. inputs: at a batch where the file as a whole was seen to differ.
    """
    file = onnx.load_model_from_string(model)
    nodes = list(zip(file.graph.node, exported.graph.graph.node, strict=False))
    if len(file.graph.node) != len(exported.graph.graph.node) or any(a.op_type != b.op_type for a, b in nodes):
        return "unknown: the file's nodes are not those of the exported graph"
    expected = program_values(exported.program, tensors_of(inputs))
    names = [name for node in file.graph.node for name in node.output if name]
    got = run_arrays(session(model, optimize=False, outputs=names), inputs)
    for mine, source in nodes:
        for name, origin in zip(mine.output, source.output, strict=True):
            reference = expected.get(exported.values.get(origin, ""))
            if reference is None or name not in got or got[name].shape != reference.shape:
                continue
            error = relative_error(got[name], reference)
            if error > tolerance:
                return f"{describe(source)}, relative error {error:.2g}"
    return "no node: each computes what torch.export captured, so the capture differs from the model"


def describe(node: onnx.NodeProto) -> str:
    """Return how a user finds a node: its name, its operator, and the module it belongs to.

    >>> describe(onnx.helper.make_node("Relu", ["x"], ["y"], name="node_relu"))
    'node_relu (Relu)'
    """
    module = module_of(node)
    return f"{node.name or node.output[0]} ({node.op_type}{f' in {module}' if module else ''})"


def module_of(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node of an unstripped graph came from, '' for the model itself.

    A layer into which a batch norm was folded is the layer that its weight belongs to, though the exporter's
    metadata name the norm.
    """
    if node.op_type in WEIGHTED and len(node.input) > 1 and ".weight" in node.input[1]:
        return str(node.input[1]).rpartition(".weight")[0]
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
    try:
        path = ast.literal_eval(scopes) if scopes else []
    except (ValueError, SyntaxError):
        return ""
    return str(path[-2]) if len(path) > 1 else ""


def program_values(program: Any, tensors: list[Tensor]) -> dict[str, np.ndarray]:
    """Run a torch.export.ExportedProgram on flat inputs; return node name -> value of every tensor node."""
    recorder = _Recorder(program.graph_module)
    with torch.no_grad():
        recorder.run(*_arguments(program, tensors))
    return recorder.values


class _Recorder(Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "placeholder":
            self.values[n.name] = result.detach().cpu().numpy().copy()
        return result


def _arguments(program: Any, tensors: list[Tensor]) -> list[Any]:
    """Return the program's flat arguments: parameters, buffers and constants first, as its signature has them."""
    given = iter(tensors)
    stored = {**program.constants, **program.state_dict}
    return [
        next(given) if spec.target is None else stored[spec.target] for spec in program.graph_signature.input_specs
    ]
