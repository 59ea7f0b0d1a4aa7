"""A PyTorch model -> an ONNX graph, by `torch.onnx.export(dynamo=True)`, with its traps closed.

The exporter fixes the batch silently where Python loops over it, renames outputs that look like inputs, drops
None outputs out of order, writes another operator set than asked, and prints. So the model is captured flat
(tensors in, tensors out), names are given by position, and the graph is run at batch 1, 2 and 3.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from paretune.data import call, map_tensors, tensors_of
from paretune.errors import TaskError
from paretune.export._attention import FourDimensional
from paretune.export._batches import batch_of, is_batched, resized
from paretune.export._fold import fold_batch_norms
from paretune.export._join import join_nodes
from paretune.export._names import rename_values, values_of
from paretune.export._run import session
from paretune.export._structure import input_names, named_outputs
from paretune.feeds import feeds

OPSET = 20
CHECKED_BATCHES = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported graph that still knows which module each node came from."""

    graph: onnx.ModelProto
    """Unstripped: each node's `metadata_props` hold `pkg.torch.onnx.name_scopes`, the path of its module."""
    fixed_batch: int | None
    """The only batch the graph takes, or None where the batch is free."""
    notes: tuple[str, ...] = ()
    """What the user must know: why the batch is fixed, which output was renamed."""
    program: Any = field(default=None, repr=False)
    """The torch.export.ExportedProgram that the graph was written from."""
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name of a value in `graph` -> name of the node of `program` that computes it."""


def export_onnx(model: nn.Module, example: Any) -> Exported:
    """Export a model in eval mode; the model itself, its mode included, is as before afterwards.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs. Inputs are named as `forward`
    names them, outputs `output`, `output_0`... or by a dict's keys. The batch is free if the graph runs at batch
    1, 2 and 3 as the model does, else fixed at the example's batch, and a note says why. A model that
    torch.export cannot capture is a TaskError.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper cannot be captured, what it wraps can
    example = map_tensors(lambda tensor: tensor.detach().cpu(), example)
    if any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        raise TaskError(
            "the model's weights are bfloat16, for which ONNX Runtime has no CPU kernels; give model.float()"
        )
    with ready(model), _quiet():
        reason = _varies(model, example)
        if reason is None:
            capture = resized(example, max(2, batch_of(example)))
            try:
                exported = _export(
                    model, capture, free=[is_batched(t, batch_of(example)) for t in tensors_of(example)]
                )
                reason = _lost_batch(exported.graph, model, example)
            except _ExportError as error:
                reason = f"torch.export does not take a free batch ({error})"
            if reason is None:
                return exported
        return _export_fixed(model, example, reason)


def _export_fixed(model: nn.Module, example: Any, reason: str) -> Exported:
    batch = batch_of(example)
    try:
        exported = _export(model, example, free=None)
    except _ExportError as error:
        raise TaskError(f"the model cannot be exported to ONNX: {error}. {_advice(str(error))}") from error
    note = f"the batch is fixed at {batch}: {reason}"
    return Exported(exported.graph, batch, (*exported.notes, note), exported.program, exported.values)


class _ExportError(Exception):
    """The exporter failed; the message is its cause in one line."""


def _export(model: nn.Module, inputs: Any, *, free: list[bool] | None) -> Exported:
    """Export with named inputs and outputs, batch norms folded and nodes joined.

    free: which tensors have the free batch.
    """
    tensors = tensors_of(inputs)
    with torch.no_grad():
        outputs = list(named_outputs(call(model, inputs)))
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} if has_batch else None for has_batch in free),) if free else None
    try:
        program = _written(_flat(model, inputs), tuple(tensors), shapes)
        graph = program.model_proto
    except Exception as error:  # whatever an exporter of this size raises, the user's model is what it met
        raise _ExportError(_root_cause(error)) from error
    source = program.exported_program
    if len(graph.graph.output) != len(outputs) or len(graph.graph.input) != len(tensors):
        raise _ExportError("forward changes the model's buffers, which a graph without state cannot do")
    values, notes = _name_values(graph.graph, input_names(model, inputs), outputs, source)
    fold_batch_norms(graph)
    join_nodes(graph)
    return Exported(graph, None, tuple(notes), source, values)


def _written(model: nn.Module, tensors: tuple[Tensor, ...], shapes: Any) -> Any:
    """Return torch's ONNXProgram.

    The exporter writes attention out, which gives its result other strides than the kernel does. A view that ran
    in the model is refused then: what is viewed is copied first, which the written graph leaves out again.
    """
    options: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "verbose": False}
    try:
        return torch.onnx.export(model, tensors, dynamic_shapes=shapes, **options)
    except Exception as error:
        if "Cannot view a tensor" not in _root_cause(error):
            raise
    program = torch.export.export(model, tensors, dynamic_shapes=shapes, strict=False)
    for node in [node for node in program.graph.nodes if node.target in _VIEWS]:
        with program.graph.inserting_before(node):
            copy = program.graph.call_function(
                torch.ops.aten.clone.default, node.args[:1], {"memory_format": torch.contiguous_format}
            )
        copy.meta = {**node.meta, "val": node.args[0].meta["val"].clone(memory_format=torch.contiguous_format)}
        node.replace_input_with(node.args[0], copy)
    return torch.onnx.export(program, **options)


_VIEWS = (
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.contiguous.default,
    torch.ops.aten.flatten.using_ints,
)


def _flat(model: nn.Module, inputs: Any) -> nn.Module:
    """Return a twin of the model that takes the tensors of `inputs` one by one and returns a tuple of tensors.

    The twin shares parameters, buffers and submodules with the model, so that their names stay what they are.
    """
    twin = object.__new__(type(model))
    twin.__dict__ = dict(model.__dict__)
    for name, value in model.__dict__.items():
        if name.endswith("_hooks") and isinstance(value, dict):
            twin.__dict__[name] = OrderedDict()  # they belong to the model, which the twin calls

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        with FourDimensional():
            outputs = call(model, map_tensors(lambda _: next(left), inputs))
        return tuple(named_outputs(outputs).values())

    twin.__dict__["forward"] = forward
    return twin


def _name_values(
    graph: onnx.GraphProto, inputs: list[str], outputs: list[str], program: Any
) -> tuple[dict[str, str], list[str]]:
    """Name inputs and outputs by position; return value -> node of the program, and notes on names changed."""
    computed = {node.name for node in program.graph.nodes if node.op not in ("placeholder", "output")}
    notes = [
        f"output '{name}' is called '{name}_out': an input bears its name" for name in outputs if name in inputs
    ]
    outputs = [f"{name}_out" if name in inputs else name for name in outputs]
    wanted = dict(zip([value.name for value in graph.input], inputs, strict=True))
    wanted |= dict(zip([value.name for value in graph.output], outputs, strict=True))
    others = [name for name in values_of(graph) if name not in wanted]
    taken = {*wanted.values(), *others}
    for name in others:
        if name in wanted.values():
            wanted[name] = next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)
            taken.add(wanted[name])
    values = {wanted.get(name, name): name for name in values_of(graph) if name in computed}
    made_by_output = dict(zip(outputs, program.graph_signature.user_outputs, strict=False))
    values |= {name: str(node) for name, node in made_by_output.items() if node in computed}
    rename_values(graph, wanted)
    return values, notes


def _varies(model: nn.Module, example: Any) -> str | None:
    """Return why the model itself takes one batch only, or None."""
    for batch in CHECKED_BATCHES:
        try:
            with torch.no_grad():
                call(model, resized(example, batch))
        except Exception as error:
            if batch == batch_of(example):
                raise TaskError(f"the model does not accept the example input: {_root_cause(error)}") from error
            return f"the model fails at batch {batch} ({_root_cause(error)})"
    return None


def _lost_batch(graph: onnx.ModelProto, model: nn.Module, example: Any) -> str | None:
    """Return how the exporter lost the free batch, or None if the graph runs as the model at batch 1, 2 and 3."""
    first = graph.graph.input[0].type.tensor_type.shape.dim[0]
    if not first.dim_param:
        return f"the exporter fixed it at {first.dim_value}; a Python loop over the batch does that"
    running = session(graph.SerializeToString())
    names = [value.name for value in running.get_inputs()]
    for batch in CHECKED_BATCHES:
        inputs = resized(example, batch)
        with torch.no_grad():
            expected = [tuple(tensor.shape) for tensor in named_outputs(call(model, inputs)).values()]
        try:
            got = running.run(None, feeds(names, _by_name(names, inputs)))
        except Exception as error:
            return f"the exported graph fails at batch {batch} ({_root_cause(error)})"
        if (shapes := [np.asarray(array).shape for array in got]) != expected:
            return f"at batch {batch} the exported graph's outputs have shapes {shapes}, the model's {expected}"
    return None


def _by_name(names: list[str], inputs: Any) -> dict[str, Tensor]:
    return dict(zip(names, tensors_of(inputs), strict=True))


@contextlib.contextmanager
def ready(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode on the CPU; give every module its mode, and the model its device, back."""
    modes = {module: module.training for module in model.modules()}
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    model.eval()
    if device.type != "cpu":
        model.to("cpu")
    try:
        yield
    finally:
        if device.type != "cpu":
            model.to(device)
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: what it prints, logs and warns is about itself."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _advice(cause: str) -> str:
    if "data-dependent" in cause or "Could not guard" in cause:
        return (
            "torch.export follows tensors, not Python: choose between branches with torch.where, without .item()"
        )
    return "Write that part of forward with operators that torch.onnx.export takes"


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause in one line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
