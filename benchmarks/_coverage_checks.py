"""What is asked of a pruned model: the same function, trains, reloads in a fresh process, exports to ONNX."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _coverage_cut import RATIO, count, cut, warm_up
from _coverage_models import Inputs, build, given_sizes
from _coverage_oracle import TOLERANCE, compare, first_names, outputs, uncut, worst
from paretune.checkpoint import State
from paretune.data import call, tensors_of

ONNX_TOLERANCE = 1e-4


def row_of(name: str) -> dict[str, Any]:
    """Prune one model and check what came out; a stage that fails is False, with the reason under `errors`."""
    start = time.monotonic()
    model, inputs = build(name)
    row: dict[str, Any] = {
        "name": name,
        "params": count(model),
        "floor": floor(model, given_sizes(name)),
        "errors": {},
    }
    warm_up()
    pruned = _stage(row, "pruned", lambda: cut(row, model, inputs(1)))
    if pruned is not None:
        row |= {"form": pruned.cuts.form, "params_after": count(pruned.model), "notes": len(pruned.notes)}
        row["left"] = row["params_after"] / row["params"]
        row["over_floor"] = row["params_after"] / row["floor"]
        _stage(row, "oracle", lambda: compare(row, model, pruned, inputs))
        _stage(row, "reloads", lambda: reloads(name, pruned, inputs))
        _stage(row, "exported", lambda: exported(row, pruned.model, inputs))
        if not row["exported"]:  # is it the cut's fault?
            _stage(row, "uncut_exported", lambda: exported({}, model, inputs))
        _stage(row, "trains", lambda: trains(uncut(model, pruned.cuts), pruned.model, inputs(2)))
    row["seconds"] = round(time.monotonic() - start, 1)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _stage(row: dict[str, Any], stage: str, function: Callable[[], Any]) -> Any:
    try:
        result = function()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:500]
        row["errors"][stage] = f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
        result = None
    row[stage] = result is not None
    return result


def floor(model: nn.Module, given: set[int]) -> int:
    """Return the parameters of the model with every axis halved (rounded up) that its code alone could halve.

    Kernels keep their size, and so does an axis as long as what is given from outside: classes, image channels,
    vocabulary, positions. Of a bare parameter (tokens, positions, layer scale) only the last axis longer than 1 is
    halved. It is made from shapes, not from paretune's groups: what paretune pins without need shows against it.
    """
    total = 0
    seen: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            sizes = list(parameter.shape)
            if isinstance(module, nn.modules.conv._ConvNd):
                free = list(range(min(2, len(sizes))))
            elif _is_bare(module):
                free = [axis for axis, size in enumerate(sizes) if size > 1][-1:]
            else:
                free = list(range(len(sizes)))
            for axis in free:
                sizes[axis] = sizes[axis] if sizes[axis] in given else math.ceil(sizes[axis] * (1 - RATIO))
            total += math.prod(sizes)
    return total


def _is_bare(module: nn.Module) -> bool:
    """Tell whether a module's own parameters are not those of a layer."""
    return getattr(module, "weight", None) is None and not isinstance(module, nn.RNNBase | nn.MultiheadAttention)


def trains(before: nn.Module, after: nn.Module, inputs: Any) -> dict[str, float]:
    """Take one step of SGD on the delivered model; every parameter that is left and had a gradient must have one.

    Of parameters that are gone as a whole the oracle tells whether they may be.
    """
    reached = _reached(before, inputs)[0]
    now, loss = _reached(after, inputs)
    first = first_names(before)
    there = {first.get(name, name) for name, _ in after.named_parameters()}
    lost = sorted(there & reached - {first.get(name, name) for name in now})
    if lost:
        raise AssertionError(f"no gradient reaches {len(lost)} parameters that had one: {lost[:5]}")
    optimizer = torch.optim.SGD(after.parameters(), lr=1e-4)
    old = [parameter.detach().clone() for parameter in after.parameters()]
    optimizer.step()
    changed = sum(not torch.equal(a, b) for a, b in zip(old, after.parameters(), strict=True))
    if not math.isfinite(loss) or not changed:
        raise AssertionError(f"a step of SGD: loss {loss}, {changed} parameters changed")
    second = float(_loss(after, inputs).detach())
    after.eval()
    if not math.isfinite(second):
        raise AssertionError(f"after a step of SGD the loss is {second}")
    return {"loss": loss, "after": second}


def _reached(model: nn.Module, inputs: Any) -> tuple[set[str], float]:
    """Return the parameters that a backward pass in train mode reaches, and the loss."""
    model.zero_grad(set_to_none=True)
    loss = _loss(model, inputs)
    loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}, float(
        loss.detach()
    )


def _loss(model: nn.Module, inputs: Any) -> Tensor:
    torch.manual_seed(0)
    model.train()
    total = torch.zeros(())
    for output in tensors_of(call(model, inputs)):
        if output.is_floating_point() and output.requires_grad:
            total = total + output.square().mean()
    return total


def reloads(name: str, pruned: Any, inputs: Inputs) -> dict[str, Any]:
    """Save weights and manifest; a fresh process builds the model from its factory, and must give the same."""
    with tempfile.TemporaryDirectory() as folder:
        State(pruned.model.state_dict(), (pruned.cuts,)).save(Path(folder) / "pruned.safetensors")
        torch.save(outputs(pruned.model.eval(), inputs(2)), Path(folder) / "outputs.pt")
        command = [sys.executable, str(Path(__file__).with_name("_coverage_child.py")), name, "--reload", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError("a fresh process: " + " ".join(done.stderr.split()[-60:]))
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not answer["gap"] <= TOLERANCE[torch.float32]:
        raise AssertionError(f"the reloaded model's outputs differ by {answer['gap']}")
    return answer


def reloaded(name: str, folder: Path) -> dict[str, Any]:
    """Rebuild what `reloads` saved, in this process, and return the gap of its outputs."""
    model, inputs = build(name)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(0.5)  # so that nothing but what was saved can make the outputs right
    model = State.load(folder / "pruned.safetensors").onto(model).eval()
    return {"gap": worst(torch.load(folder / "outputs.pt"), outputs(model, inputs(2)))}


def exported(row: dict[str, Any], model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Export to ONNX and compare ONNX Runtime with PyTorch at batch 1 and 2."""
    from paretune.export import export_onnx, runner, session, strip

    start = time.monotonic()
    export = export_onnx(model.eval(), inputs(1))
    row["onnx_s"], row["onnx_notes"] = round(time.monotonic() - start, 1), list(export.notes)
    run = runner(session(strip(export.graph).SerializeToString()))
    gaps = {}
    for batch in (1, 2):
        gaps[f"batch_{batch}"] = worst(outputs(model, inputs(batch)), tensors_of(run(inputs(batch))))
    row["onnx_gaps"] = gaps
    if not max(gaps.values()) <= ONNX_TOLERANCE:
        raise AssertionError(f"ONNX Runtime's outputs differ: {gaps}")
    return gaps
