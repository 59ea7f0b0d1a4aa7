"""Capture: the model as a graph of ATen operators, with the user's line for every node.

`torch.export` in non-strict mode, on static shapes, in eval mode; the graph is not decomposed, so that `linear`,
`conv2d` and attention stay whole. An example of batch 1 is repeated to 2: with a batch of 1 the exporter could
not tell the batch from an axis of size 1.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from paretune.cuts import forget
from paretune.data import call, kept_random_state, map_tensors, shapes_of, tensors_of
from paretune.errors import InputError, SurgeryError
from paretune.prune._capture.decompose import Known, decompose, inline
from paretune.prune._capture.fixed_flow import Read, depends, reading, reads_of
from paretune.prune._capture.given import unchanged

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parents[1]) + os.sep
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s+(.*)')


@dataclass(frozen=True)
class Capture:
    """A captured model."""

    program: torch.export.ExportedProgram
    example: Any
    """The inputs as captured, on the model's device."""
    repeat: int
    """How often the batch of the given example was repeated (1 or 2)."""
    batch: int | None = None
    """Samples in the captured example; None where its first tensor has no axis."""
    training: torch.export.ExportedProgram | None = None
    """The model captured in train mode, where parameters are used that eval mode leaves out (auxiliary heads)."""
    known: Known = bool
    """Which operators are not taken apart (`decompose`); by default all."""
    reads: tuple[Read, ...] = ()
    """What the model's code read out of tensors, where control flow was fixed as the example takes it."""


def capture(model: nn.Module, example: Any, known: Known = bool) -> Capture:
    """Capture a model in eval mode; its train/eval state is as before afterwards.

    known: the operators that stay whole; others are taken apart where that gives such ones (`decompose`).
    A model that does not accept the example, or that cannot be captured, is a SurgeryError with the user's line.
    """
    example = on_device_of(model, example)
    with evaluating(model):
        captured = replace(_capture(model, example), known=known)
        decompose(captured.program.graph, known)
    if not unused(captured.program) and not returns_otherwise(model, captured):
        return captured
    with evaluating(model, False):
        try:
            training = _export(model, captured.example, bool(captured.reads))
        except Exception:  # those parameters may be used nowhere; the graph of eval mode is what is measured
            return captured
    decompose(training.graph, known)
    return replace(captured, training=training)


def returns_otherwise(model: nn.Module, captured: Capture) -> bool:
    """Tell whether a model's own code gives other tensors in train mode than in eval mode.

    It is run for that where some class that is not torch's speaks of `training`.
    """
    kinds: set[Any] = {type(module) for module in model.modules()}
    if not any(_speaks_of_training(kind) for kind in kinds):
        return False
    (returned,) = captured.program.graph.output_node().args
    expected = [tuple(n.meta["val"].shape) for n in tree_leaves(returned) if isinstance(n, fx.Node)]
    with evaluating(model, False), kept_random_state():
        try:
            found = call(model, captured.example)
        except Exception:  # targets that only training takes
            return False
    return [tuple(leaf.shape) for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)] != expected


@cache
def _speaks_of_training(kind: type[Any]) -> bool:
    if kind.__module__.startswith("torch."):
        return False
    try:
        return "training" in inspect.getsource(kind)
    except (OSError, TypeError):  # made by code that is not in a file
        return False


def _capture(model: nn.Module, example: Any) -> Capture:
    doubled = _repeat_batch(example)
    if doubled is not None:
        try:
            return Capture(_export(model, doubled), doubled, 2, 2)
        except Exception:  # a model with a fixed batch: capture it at that batch, which says more if it fails
            pass
    try:
        return Capture(_export(model, example), example, 1, _batch_of(example))
    except Exception as error:
        if fixed := _fixed(model, example if doubled is None else doubled, error):
            return replace(fixed, repeat=1 if doubled is None else 2)
        raise _not_captured(error) from error


def _not_captured(error: Exception, because: str = "") -> SurgeryError:
    if unknown := re.match(r"Found <class '([^']*)'> in output", str(error)):
        kind = unknown[1].rpartition(".")[2]
        return SurgeryError(
            f"torch.export cannot capture this model: it returns a {kind}, which torch does not know how to take "
            "apart. Leave it out where an input does that (a cache: use_cache=False); return tensors, tuples, "
            "lists, dicts or named tuples; or register it: "
            f"torch.export.register_dataclass({kind}), torch.utils._pytree.register_pytree_node({kind}, ...)"
        )
    return SurgeryError(
        f"torch.export cannot capture this model: {type(error).__name__}: {_first_line(error)}{_at(error)}"
        f"{because}. Control flow that depends on the values of a tensor, and conversions to numpy or to Python "
        "numbers, cannot be captured: write them with tensor operators (torch.where), or move them out of forward"
    )


def _fixed(model: nn.Module, example: Any, error: Exception) -> Capture | None:
    """Capture the path that the example takes, where other inputs take it too; None where nothing is read."""
    reads = reads_of(model, example)
    if not reads:
        return None
    if (read := depends(model, example, reads)) is not None:
        raise _not_captured(error, f"; what {read} reads is another for other inputs") from error
    try:
        program = _export(model, example, fixed=True)
    except Exception:  # something else is not captured either, and the first error says what
        return None
    return Capture(program, example, 1, _batch_of(example), reads=tuple(reads))


def unused(program: torch.export.ExportedProgram) -> bool:
    """Tell whether some parameter is used by no node (tied ones count as one)."""
    parameters = program.graph_signature.inputs_to_parameters
    used: dict[int, bool] = {}
    for node in program.graph.nodes:
        if node.name in parameters:
            key = id(program.state_dict[parameters[node.name]])
            used[key] = used.get(key, False) or bool(node.users)
    return not all(used.values())


def on_device_of(model: nn.Module, example: Any) -> Any:
    """Move an example to where the model's first parameter lives."""
    first = next(iter(model.parameters()), None)
    if first is None:
        return example
    if any(tensor.is_meta for tensor in tensors_of(example)) and not first.is_meta:
        raise InputError(f"the example is on the meta device and the model on {first.device}: give real values")
    return map_tensors(lambda tensor: tensor.to(first.device), example)


@contextmanager
def evaluating(model: nn.Module, evaluation: bool = True) -> Iterator[None]:
    """Put every module in eval mode (or all in train mode), and back into the mode each had.

    What forward writes into the model is put back; autocast is off, whatever the caller has switched on. The mode
    of the whole is set back as its owner would, for modules that do something then (merge weights: LoRA).
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.train(not evaluation)
    except NotImplementedError as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be put into eval or train mode ({error}): an exported program is in "
            "one of the two. Give the nn.Module that it was exported from"
        ) from error
    device = next((p.device.type for p in model.parameters() if p.device.type != "meta"), "cpu")
    try:
        with torch.no_grad(), unchanged(model), torch.autocast(device, enabled=False):
            yield
    finally:
        model.train(modes[model])
        for module, mode in modes.items():
            module.training = mode


def user_line(node: fx.Node) -> str:
    """Return `file.py:12: code` of the user's line that made a node, or nothing."""
    return _line_of_trace(node.meta.get("stack_trace") or "")


@cache
def _line_of_trace(trace: str) -> str:
    return line_of_frames(_FRAME.findall(trace))


def line_of_frames(frames: list[tuple[str, str, str, str]]) -> str:
    """Return the innermost of (file, line, function, code) frames that is not in torch or here."""
    for file, line, _, code in reversed(frames):
        if not file.startswith((_TORCH, _HERE, "<")) and not file.endswith(
            ("paretune/data.py", "paretune/task.py")
        ):
            return f"{Path(file).name}:{line}: {code.strip()}"
    return ""


def line_of_error(error: BaseException) -> str:
    """Return the user's line that raised an error, or nothing."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return line_of_frames([(f.filename, str(f.lineno), f.name, f.line or "") for f in frames])


def in_words(error: BaseException) -> str:
    """Return an error of the model's own code in one line, with the line of it."""
    return f"{type(error).__name__}: {_first_line(error)[:200].rstrip('.')}{_at(error)}"


def _at(error: BaseException) -> str:
    line = line_of_error(error)
    return f" (at {line})" if line else ""


def accepts(model: nn.Module, example: Any) -> None:
    """Run the model once, as `try_forward` does, where its parameters are and in eval mode."""
    example = on_device_of(model, example)
    with evaluating(model):
        try_forward(model, example)


def try_forward(model: nn.Module, example: Any) -> None:
    """Run the model once; an example that it does not accept is refused with its shapes and the user's line."""
    if any(tensor.numel() == 0 for tensor in tensors_of(example)[:1]):
        raise InputError("the example is empty: give at least one sample, a cut is compared on it")
    try:
        output = call(model, example)
    except Exception as error:
        raise SurgeryError(
            f"the model does not accept the example input ({shapes_of(example)}): {type(error).__name__}: "
            f"{_first_line(error)}{_at(error)}. Pass inputs that model(...) accepts: a tensor, a tuple, or a dict "
            "of keyword inputs"
        ) from error
    if all(leaf is None or isinstance(leaf, int | float | str) for leaf in tree_leaves(output)):
        raise SurgeryError(
            f"the model returns no tensor for the example (it returned {type(output).__name__}), so that nothing "
            "says what must be kept: return what the model computes"
        )


def _repeat_batch(example: Any) -> Any:
    """Return the example with its batch of 1 repeated to 2, or None where it has none."""
    tensors = tensors_of(example)
    if not tensors or tensors[0].dim() == 0 or tensors[0].shape[0] != 1:
        return None
    return map_tensors(lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t, example)


def _batch_of(example: Any) -> int | None:
    tensors = tensors_of(example)
    return int(tensors[0].shape[0]) if tensors and tensors[0].dim() else None


def another_batch(model: nn.Module, captured: Capture) -> tuple[torch.export.ExportedProgram, int] | None:
    """Capture the model once more, with one sample more in the batch; None where it accepts no other batch."""
    batch = captured.batch
    if batch is None:
        return None

    def longer(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor[:1]]) if tensor.dim() and tensor.shape[0] == batch else tensor

    with evaluating(model):
        try:
            program = _export(model, map_tensors(longer, captured.example), bool(captured.reads))
        except Exception:  # a batch that is fixed in the model's code
            return None
        decompose(program.graph, captured.known)  # without gradients, as the first time
    return program, batch + 1


def _export(model: nn.Module, example: Any, fixed: bool = False) -> torch.export.ExportedProgram:
    keywords = dict(example) if isinstance(example, Mapping) else {}
    inputs = () if keywords else tuple(example) if isinstance(example, list | tuple) else (example,)
    with quiet(), redirect_stderr(StringIO()), reading(reads_of(model, example)) if fixed else nullcontext():
        forget(model)  # what an earlier run left in a cache would be captured as a constant
        program = torch.export.export(model, inputs, keywords, strict=False)  # prints what it got to when it fails
    _inline_regions(program.graph_module)
    asserts = program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default)
    for node in asserts:  # ranges of sizes that depend on values: they hold a batch, and change nothing
        program.graph.erase_node(node)
    if fixed or asserts:
        program.graph.eliminate_dead_code()  # what led to the values that were read
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from printing tracebacks of what is reported in one line here."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_LOUD = ("torch._subclasses.fake_tensor", "torch.export", "torch.fx.experimental.symbolic_shapes")


def _inline_regions(module: fx.GraphModule) -> None:
    """Put the nodes of `with torch.autocast(...)` and `torch.set_grad_enabled(...)` regions into the graph itself.

    Neither changes what is computed here: autocast regions in models switch it off, and it is off.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _REGIONS:
            continue
        place = next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
        region, inputs = node.args[place], node.args[place + 1 :]
        inner = getattr(module, region.target)
        _inline_regions(inner)
        inline(graph, node, inner.graph, inputs)
        if not region.users:
            graph.erase_node(region)


_REGIONS = (
    torch.ops.higher_order.wrap_with_autocast,
    torch.ops.higher_order.wrap_with_set_grad_enabled,
)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]
