"""The oracle of `surgery_coverage.py`, which knows nothing of paretune's analysis.

It reads the manifest alone: in a copy of the uncut model every slice that the manifest removes is set to zero, and
every norm over channels is told to compute its statistics over those that stay; a softmax leaves out what is zero
for every row and sample, as products of removed channels are. Outputs and gradients must then be those of the
pruned model.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import _coverage_cut
from _coverage_models import Inputs
from paretune import prune
from paretune.cuts import Cuts
from paretune.data import call, map_tensors, tensors_of

LARGEST_FLOAT64 = 150_000_000
"""Parameters; above, the oracle is checked in float32, for want of memory."""
LARGEST_ALONE = 700_000_000
"""Parameters; up to here float64 decides where float32 finds a gap that may be its own rounding: about 20 GB."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def compare(row: dict[str, Any], model: nn.Module, pruned: Any, inputs: Inputs) -> dict[str, float]:
    """Compare the pruned model with the masked uncut one, outputs and gradients, at batch 1 and 2.

    In float64; where a type written in the code or the size of the model leaves no more than float32, in that. A
    gap that a large model shows in float32 counts unless float64, which is the sharper, shows none.
    """
    gaps, dtype = None, torch.float64
    if row["params"] <= LARGEST_FLOAT64:
        try:
            gaps = gaps_of(model, pruned, inputs, dtype)
            if _wrong(gaps, dtype) and not _wrong(gaps, torch.float32) and pruned.cuts.form == "graph":
                row["oracle_note"] = "cut anew in float64: the graph of the float32 model casts to float32"
                wide = copy.deepcopy(model).to(dtype)
                gaps = gaps_of(wide, _coverage_cut.cut({}, wide, _as(inputs(1), dtype)), inputs, dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            row["oracle_note"] = " ".join(str(error).split())[:200]
            gaps = None
    if gaps is None:
        dtype = torch.float32
        gaps = gaps_of(model, pruned, inputs, dtype)
        if _wrong(gaps, dtype) and LARGEST_FLOAT64 < row["params"] <= LARGEST_ALONE:
            row["oracle_note"] = f"float32, where rounding shows: {_wrong(gaps, dtype)}"
            dtype = torch.float64
            gaps = gaps_of(model, pruned, inputs, dtype)
    row["gaps"], row["oracle_dtype"] = gaps, str(dtype).removeprefix("torch.")
    if dtype == torch.float64 and _wrong(gaps, dtype) and casts(model, inputs):
        row["oracle_note"] = "parts of the model compute in float32 whatever they are given"
        dtype = torch.float32
    if gaps["changed"] < 1e-6:
        raise AssertionError("the removed channels do not change the output: this comparison says nothing")
    if wrong := _wrong(gaps, dtype):
        raise AssertionError(f"gaps above {TOLERANCE[dtype]} in {dtype}: {wrong}")
    return gaps


def casts(model: nn.Module, inputs: Inputs) -> bool:
    """Tell whether a model in float64 computes something in float32."""
    with _Float32() as seen, torch.no_grad():
        call(copy.deepcopy(model).double().eval(), _as(inputs(1), torch.float64))
    return seen.count > 0


class _Float32(TorchDispatchMode):
    """Counts operators that give float32 in a float64 model."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.count += any(tensor.dtype == torch.float32 for tensor in tensors_of(output))
        return output


def _wrong(gaps: dict[str, float], dtype: torch.dtype) -> dict[str, float]:
    return {key: gap for key, gap in gaps.items() if key != "changed" and not gap <= TOLERANCE[dtype]}


def gaps_of(model: nn.Module, pruned: Any, inputs: Inputs, dtype: torch.dtype) -> dict[str, float]:
    example = {batch: _as(inputs(batch), dtype) for batch in (1, 2)}
    after = copy.deepcopy(pruned.model).to(dtype).eval()
    got = {batch: outputs(after, example[batch]) for batch in (1, 2)}
    first = first_names(model)
    found = {first.get(name, name): grad.clone() for name, grad in gradients(after, example[2]).items()}
    del after
    before = uncut(model, pruned.cuts).to(dtype).eval()
    gaps = {"changed": worst(outputs(before, example[2]), got[2])}
    masked(before, pruned.cuts)
    with _SoftmaxOnKept():
        for batch in (1, 2):
            gaps[f"batch_{batch}"] = worst(outputs(before, example[batch]), got[batch])
        gaps["gradients"] = _gradient_gap(gradients(before, example[2]), found, pruned.cuts)
    return gaps


class _SoftmaxOnKept(TorchFunctionMode):
    """Leaves out of every softmax the columns that are exactly zero everywhere: attention between channels."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (softmax, torch.softmax, Tensor.softmax):
            value, *rest = args if args else (kwargs.pop("input"),)
            dim = (rest[0] if rest else kwargs["dim"]) % value.dim()
            others = [axis for axis in range(value.dim()) if axis != dim]
            gone = (value.detach() == 0).all(dim=others, keepdim=True) if others else value.detach() == 0
            if bool(gone.any()) and not bool(gone.all()):
                args = (value.masked_fill(gone, -math.inf), *rest)
        return func(*args, **kwargs)


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


def worst(expected: list[Tensor], got: list[Tensor]) -> float:
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
    """Compare gradients over what stays, relative to the largest of all.

    A parameter that is gone as a whole counts as zero: with what was cut masked, none must reach it. That is so of
    a branch whose weight in a softmax was cut.
    """
    largest = max(float(gradient.abs().max()) for gradient in got.values())
    masked_norms = {
        name for name, gradient in expected.items() if name in got and gradient.shape == got[name].shape
    }
    for cut in cuts.cuts:
        if cut.tensor in expected and cut.tensor not in masked_norms:
            expected[cut.tensor] = _kept(expected[cut.tensor], cut)
    if any(name in got and got[name].shape != gradient.shape for name, gradient in expected.items()):
        return math.inf
    return max(float((gradient - got.get(name, 0.0)).abs().max()) / largest for name, gradient in expected.items())


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
        if _is_norm_over_channels(modules[owner]) and tensors[cut.tensor].squeeze().dim() == 1:
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
    return ("Norm" in kind and "BatchNorm" not in kind and "InstanceNorm" not in kind) or "GRN" in kind


class _OnKept(nn.Module):
    """A norm that sees the channels that stay alone, and gives zero for the others."""

    def __init__(self, norm: nn.Module, keep: Tensor, groups: int | None):
        super().__init__()
        width = next(norm.parameters(recurse=False)).numel()
        first = isinstance(norm, nn.GroupNorm) or getattr(norm, "data_format", None) == "channels_first"
        last = not first and "2d" not in type(norm).__name__
        self.keep, self.width, self.last, self.norm = keep, width, last, copy.deepcopy(norm)
        for name, parameter in norm.named_parameters(recurse=False):
            axis = max(range(parameter.dim()), key=lambda axis: parameter.shape[axis])
            setattr(self.norm, name, nn.Parameter(parameter.detach().index_select(axis, keep)))
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
