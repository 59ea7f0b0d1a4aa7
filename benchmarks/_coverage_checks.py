"""What is asked of a pruned model: the same function, trains, reloads in a fresh process, exports to ONNX.

The oracle here knows nothing of paretune's analysis. It reads the manifest alone: in a copy of the uncut model
every slice that the manifest removes is set to zero, and every norm over channels is told to compute its
statistics over those that stay. Outputs and gradients must then be those of the pruned model.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _coverage_models import Inputs, build, given_sizes
from paretune import prune
from paretune.checkpoint import State
from paretune.cuts import Cuts
from paretune.data import call, map_tensors, tensors_of

RATIO = 0.5
LARGEST_FLOAT64 = 150_000_000
"""Parameters; above, the oracle is checked in float32, for want of memory."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
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
        _stage(row, "oracle", lambda: oracle(row, model, pruned, inputs))
        _stage(row, "reloads", lambda: reloads(name, pruned, inputs))
        _stage(row, "exported", lambda: exported(row, pruned.model, inputs))
        if not row["exported"]:  # is it the cut's fault?
            _stage(row, "uncut_exported", lambda: exported({}, model, inputs))
        _stage(row, "trains", lambda: trains(model, pruned.model, inputs(2)))
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


def count(model: nn.Module) -> int:
    """Return the numbers in a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


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


def warm_up() -> None:
    """Export something once: the first export imports half of torch."""
    torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False)


def cut(row: dict[str, Any], model: nn.Module, example: Any) -> Any:
    """Prune half of every group; note the seconds of torch.export, of the analysis around it, and of the cut."""
    with clock_of_export() as exporting:
        start = time.monotonic()
        analysis = prune.analyze(model, example)
        analysed = time.monotonic()
    row["export_s"], row["analysis_s"] = round(sum(exporting), 3), round(analysed - start - sum(exporting), 3)
    row["captured"], row["groups"] = True, len(analysis.groups)
    row["unprunable"] = _reasons(analysis.unprunable)
    selection = prune.select(analysis, ratio=RATIO, scope="local")
    row["select_s"] = round(time.monotonic() - analysed, 3)
    start = time.monotonic()
    pruned = prune.cut(analysis, selection)
    row["cut_s"] = round(time.monotonic() - start, 3)
    row["macs_left"] = round(pruned.after["macs"] / max(1, pruned.before["macs"]), 4)
    if not pruned.cuts.cuts:
        raise AssertionError("nothing was cut, and nobody was told")
    if count(pruned.model) != pruned.after["params"]:
        raise AssertionError(f"{count(pruned.model)} parameters are left, {pruned.after['params']} were promised")
    return pruned


def _reasons(unprunable: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    """Return reason -> the layers that cannot lose a channel for it, numbers in node names apart."""
    found: dict[str, list[str]] = {}
    for layer, reason, _ in unprunable:
        found.setdefault(re.sub(r"'(\w+?)(_\d+)?'", r"'\1'", reason)[:300], []).append(layer)
    return found


@contextmanager
def clock_of_export() -> Iterator[list[float]]:
    """Collect the seconds of every call of torch.export.export."""
    seconds: list[float] = []
    original = torch.export.export

    def timed(*positional: Any, **keywords: Any) -> Any:
        start = time.monotonic()
        try:
            return original(*positional, **keywords)
        finally:
            seconds.append(time.monotonic() - start)

    torch.export.export = timed
    try:
        yield seconds
    finally:
        torch.export.export = original


def oracle(row: dict[str, Any], model: nn.Module, pruned: Any, inputs: Inputs) -> dict[str, float]:
    """Compare the pruned model with the masked uncut one, outputs and gradients, at batch 1 and 2.

    In float64, where a type written in the code or the size of the model leaves no more than float32, in that.
    """
    gaps, dtype = None, torch.float64
    if row["params"] <= LARGEST_FLOAT64:
        try:
            gaps = _gaps(model, pruned, inputs, dtype)
            if _wrong(gaps, dtype) and not _wrong(gaps, torch.float32) and pruned.cuts.form == "graph":
                row["oracle_note"] = "cut anew in float64: the graph of the float32 model casts to float32"
                wide = copy.deepcopy(model).to(dtype)
                gaps = _gaps(wide, cut({}, wide, _as(inputs(1), dtype)), inputs, dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            row["oracle_note"] = " ".join(str(error).split())[:200]
            gaps = None
    if gaps is None:
        dtype = torch.float32
        gaps = _gaps(model, pruned, inputs, dtype)
    row["gaps"], row["oracle_dtype"] = gaps, str(dtype).removeprefix("torch.")
    if gaps["changed"] < 1e-6:
        raise AssertionError("the removed channels do not change the output: this comparison says nothing")
    if wrong := _wrong(gaps, dtype):
        raise AssertionError(f"gaps above {TOLERANCE[dtype]} in {dtype}: {wrong}")
    return gaps


def _wrong(gaps: dict[str, float], dtype: torch.dtype) -> dict[str, float]:
    return {key: gap for key, gap in gaps.items() if key != "changed" and not gap <= TOLERANCE[dtype]}


def _gaps(model: nn.Module, pruned: Any, inputs: Inputs, dtype: torch.dtype) -> dict[str, float]:
    example = {batch: _as(inputs(batch), dtype) for batch in (1, 2)}
    after = copy.deepcopy(pruned.model).to(dtype).eval()
    got = {batch: outputs(after, example[batch]) for batch in (1, 2)}
    first = first_names(model)
    found = {first.get(name, name): grad.clone() for name, grad in gradients(after, example[2]).items()}
    del after
    before = uncut(model, pruned.cuts).to(dtype).eval()
    gaps = {"changed": _worst(outputs(before, example[2]), got[2])}
    masked(before, pruned.cuts)
    for batch in (1, 2):
        gaps[f"batch_{batch}"] = _worst(outputs(before, example[batch]), got[batch])
    gaps["gradients"] = _gradient_gap(gradients(before, example[2]), found, pruned.cuts)
    return gaps


def uncut(model: nn.Module, cuts: Cuts) -> nn.Module:
    """Return a copy on which all that comes before the cuts is done: weights that are computed are folded."""
    nothing = dataclasses.replace(cuts, cuts=(), attributes=(), removed=(), form="module", graph=())
    return prune.replay(copy.deepcopy(model), nothing)


def first_names(model: nn.Module) -> dict[str, str]:
    """Return for every name of a parameter the first one: a tied parameter has several."""
    first: dict[int, str] = {}
    names = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in names}


def _as(inputs: Any, dtype: torch.dtype) -> Any:
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, inputs)


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return every tensor that a model gives."""
    with torch.no_grad():
        return tensors_of(call(model, inputs))


def gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Return the gradients of a fixed random combination of the outputs, by the parameter's name."""
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(3)
    total = torch.zeros((), dtype=torch.float64)
    for output in tensors_of(call(model, inputs)):
        if output.is_floating_point():
            total = total + (output * torch.randn(output.shape, generator=generator).to(output.dtype)).sum()
    total.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _worst(expected: list[Tensor], got: list[Tensor]) -> float:
    """Return the largest difference over the largest value, over all outputs; infinite where shapes differ."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in got]:
        return math.inf
    return max((_gap(a, b) for a, b in zip(expected, got, strict=True)), default=math.inf)


def _gap(a: Tensor, b: Tensor) -> float:
    if torch.equal(a, b):
        return 0.0
    if not a.is_floating_point() or not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        return math.inf
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


def _gradient_gap(expected: dict[str, Tensor], got: dict[str, Tensor], cuts: Cuts) -> float:
    """Compare gradients over what stays, relative to the largest of all; infinite where one is missing."""
    largest = max(float(gradient.abs().max()) for gradient in got.values())
    masked_norms = {
        name for name, gradient in expected.items() if name in got and gradient.shape == got[name].shape
    }
    for cut in cuts.cuts:
        if cut.tensor in expected and cut.tensor not in masked_norms:
            expected[cut.tensor] = _kept(expected[cut.tensor], cut)
    if any(name not in got or got[name].shape != gradient.shape for name, gradient in expected.items()):
        return math.inf
    return max(float((gradient - got[name]).abs().max()) / largest for name, gradient in expected.items())


def _kept(tensor: Tensor, cut: Any) -> Tensor:
    parts = zip(tensor.chunk(cut.blocks), torch.tensor(cut.keep).chunk(cut.blocks), strict=True)
    return torch.cat([part.index_select(cut.axis, places) for part, places in parts])


def masked(model: nn.Module, cuts: Cuts) -> None:
    """Zero in the uncut model every slice that the manifest removes, and mask the norms over channels."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    groups = {change.module: change.new for change in cuts.attributes if change.attribute == "num_groups"}
    norms = {}
    for cut in cuts.cuts:
        if cut.tensor not in tensors:
            continue  # a statistic of batch norm, or an index: its channel is read by nobody
        owner = cut.tensor.rpartition(".")[0]
        if _is_norm_over_channels(modules[owner]) and tensors[cut.tensor].dim() == 1:
            norms[owner] = torch.tensor(cut.keep)
        else:
            _zero(tensors[cut.tensor], cut)
    for name, keep in norms.items():
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, _OnKept(modules[name], keep, groups.get(name)))


def _zero(tensor: Tensor, cut: Any) -> None:
    with torch.no_grad():
        for part, places in zip(tensor.chunk(cut.blocks), torch.tensor(cut.keep).chunk(cut.blocks), strict=True):
            gone = torch.ones(part.shape[cut.axis], dtype=torch.bool)
            gone[places] = False
            part.index_fill_(cut.axis, gone.nonzero().flatten(), 0.0)


def _is_norm_over_channels(module: nn.Module) -> bool:
    """Tell whether a module normalises over the channel axis, so that its statistics follow the cut."""
    kind = type(module).__name__
    return "Norm" in kind and "BatchNorm" not in kind and "InstanceNorm" not in kind


class _OnKept(nn.Module):
    """A norm that sees the channels that stay alone, and gives zero for the others."""

    def __init__(self, norm: nn.Module, keep: Tensor, groups: int | None):
        super().__init__()
        width = len(next(norm.parameters(recurse=False)))
        last = not isinstance(norm, nn.GroupNorm) and "2d" not in type(norm).__name__
        self.keep, self.width, self.last, self.norm = keep, width, last, copy.deepcopy(norm)
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(self.norm, name, nn.Parameter(parameter.detach()[keep]))
        if getattr(self.norm, "normalized_shape", None) is not None:
            self.norm.normalized_shape = (len(keep),)
        if isinstance(self.norm, nn.GroupNorm):
            self.norm.num_channels = len(keep)
            self.norm.num_groups = self.norm.num_groups if groups is None else groups
        self.weight, self.bias = getattr(self.norm, "weight", None), getattr(self.norm, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        axis = x.dim() - 1 if self.last and x.shape[-1] == self.width else 1
        kept = self.norm(x.index_select(axis, self.keep))
        return torch.zeros_like(x).index_copy(axis, self.keep, kept)


def trains(before: nn.Module, after: nn.Module, inputs: Any) -> dict[str, float]:
    """Take one step of SGD on the delivered model; every parameter that had a gradient must still have one."""
    reached = _reached(before, inputs)[0]
    now, loss = _reached(after, inputs)
    first = first_names(before)
    lost = sorted(reached - {first.get(name, name) for name in now})
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
        command = [sys.executable, str(Path(__file__).with_name("_coverage_models.py")), name, "--reload", folder]
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
    return {"gap": _worst(torch.load(folder / "outputs.pt"), outputs(model, inputs(2)))}


def exported(row: dict[str, Any], model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Export to ONNX and compare ONNX Runtime with PyTorch at batch 1 and 2."""
    from paretune.export import export_onnx, runner, session, strip

    start = time.monotonic()
    export = export_onnx(model.eval(), inputs(1))
    row["onnx_s"], row["onnx_notes"] = round(time.monotonic() - start, 1), list(export.notes)
    run = runner(session(strip(export.graph).SerializeToString()))
    gaps = {}
    for batch in (1, 2):
        gaps[f"batch_{batch}"] = _worst(outputs(model, inputs(batch)), tensors_of(run(inputs(batch))))
    row["onnx_gaps"] = gaps
    if not max(gaps.values()) <= ONNX_TOLERANCE:
        raise AssertionError(f"ONNX Runtime's outputs differ: {gaps}")
    return gaps
