"""Delivery: a selection becomes a model, and is compared with what it must compute before it is handed over.

The user's own module is tried first: its tensors are cut, and numbers in its attributes are set where they held a
width that changed (`follow`). Where its code does not follow, the captured graph is rewritten (`rewrite`) and
runs over the same tensors. Whichever it is computes what the uncut model computes with the same channels masked
(`masked`), with its own weights and with random ones, or it is refused.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from paretune.cuts import Cuts, replay
from paretune.data import call, kept_random_state, map_tensors
from paretune.errors import SurgeryError
from paretune.graphs import to_json
from paretune.prune._capture.capture import evaluating, in_words, user_line
from paretune.prune._capture.given import copied, require_values, unchanged
from paretune.prune._capture.graph import flattened, named_arguments
from paretune.prune._surgery.fold import own_names
from paretune.prune._surgery.follow import follow
from paretune.prune._surgery.masked import Masked
from paretune.prune._surgery.random_weights import at_random
from paretune.prune._surgery.rewrite import rewrite
from paretune.prune._surgery.scalars import changed, scalars_of
from paretune.prune._surgery.surgery import Keep, make_cuts

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative to the largest output. What is above it in float32 may still be rounding: it is judged in float64."""
_IN_FLOAT64 = 1e-6
"""For that second look; models that compute a norm or a softmax in float32 whatever they are given reach 1e-7."""
_LARGEST_TWICE = 150_000_000
"""Parameters; a larger model is compared with its own weights only, for want of memory."""
_COARSE = 1e-3
"""With random weights, where float64 cannot tell: rounding adds up in layers that nobody trained."""
_FILLED = 1e5
"""Outputs of this size that stay as they are may have been filled in, to mask something."""

_CHOICES = 4
"""Of numbers in attributes with which the model's own forward runs, so many are compared with the masked model."""


def deliver(analysis: Analysis, keep: Keep, form: str = "auto") -> tuple[nn.Module, Cuts, tuple[str, ...]]:
    """Return a pruned copy of the analysed model, the manifest, and notes.

    form: "module" for the user's own class or an error, "graph" for the rewritten graph, "auto" for the first of
    these that works. A cut that computes anything else than the masked model is a SurgeryError.
    """
    require_values(analysis.model)
    if form == "module":
        require_own_forward(analysis)
    model, state = analysis.model, analysis.couplings
    cuts = make_cuts(model, state, keep)
    problem, expected = "", None
    if form != "graph":
        pruned = replay(copied(model), cuts)
        try:
            macs = analysis.macs * (analysis.captured.batch or 1)
            for attributes in islice(follow(pruned, analysis.captured, state, keep, macs), _CHOICES):
                expected = expected or masked_outputs(analysis, keep)
                manifest = replace(cuts, attributes=(*cuts.attributes, *attributes))
                wrong = _rescaled(analysis, pruned) or _wrong(analysis, keep, expected, pruned)
                wrong = wrong or _wrong_at_random(analysis, keep, manifest)
                if not wrong:
                    return pruned, manifest, ()
                problem = problem or wrong
        except SurgeryError as error:
            problem = str(error)
        if form == "module":
            raise SurgeryError(
                f"the model's own forward does not follow this cut: {problem}. Take sizes from the tensor "
                "(x.shape[1], -1) where they are written in the code, or protect the layers concerned, or let the "
                'result be a rewritten graph: form="auto"'
            )
    expected = expected or masked_outputs(analysis, keep)
    pruned = replay(copied(model), cuts)
    graph = rewrite(pruned, analysis.captured, state, keep, analysis.numbers)
    manifest = replace(cuts, form="graph", graph=tuple(to_json(graph, own_names(model))))
    wrong = _wrong(analysis, keep, expected, graph) or _wrong_at_random(analysis, keep, manifest)
    if wrong and (drawn := _draws(analysis)):
        raise SurgeryError(
            "this cut cannot be compared: the model draws random numbers in eval mode, as many as layers that are "
            f"cut are wide ({', '.join(drawn)}). Draw in training alone (training=self.training), or protect them"
        )
    if wrong:
        raise SurgeryError(
            f"this cut could not be made: the rewritten graph is wrong: {wrong}. This is a mistake of "
            "paretune: please report the model; protect the layers concerned until it is mended"
        )
    why = f": the model's own forward does not follow ({problem})" if problem else ""
    notes = [f"the result is the captured graph, rewritten{why}"]
    if analysis.numbers is None:
        notes.append(f"it runs at a batch of {analysis.captured.batch} only: the model's code fixes its batch")
    if lost := flattened(analysis.captured):
        notes.append(f"it returns the tensors of {', '.join(lost)} in a tuple: a graph cannot build that")
    return replay(copied(model), manifest), manifest, tuple(notes)


def require_own_forward(analysis: Analysis) -> None:
    """Raise a SurgeryError where weights that the model's forward computes were folded: only the graph can run."""
    weights = [node["target"] for node in analysis.base if "folded" in node]
    if weights:
        raise SurgeryError(
            f'form="module" cannot be: the model\'s forward computes {", ".join(weights)}, and a cut needs what '
            'it computes as the weight itself. Let the result be the captured graph, form="auto", or compute it '
            "by torch.nn.utils.parametrize, which is folded"
        )


def _draws(analysis: Analysis) -> list[str]:
    """Return the lines that draw random numbers, where the model gives something else for another seed."""
    seeds = [outputs(analysis.model, analysis.captured.example, seed) for seed in (0, 1)]
    if all(relative_gap(a, b) < 1e-6 for a, b in zip(*seeds, strict=True)):
        return []
    return [
        user_line(node) or node.name
        for node in analysis.captured.program.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    ]


def _rescaled(analysis: Analysis, model: nn.Module) -> str:
    """Return in words which number a cut model's code computes with that the uncut model's does not."""
    other = changed(analysis.scalars, scalars_of(model, analysis.captured.example))
    return f"it computes another function than the masked model: {other}" if other else ""


def _wrong(analysis: Analysis, keep: Keep, expected: list[torch.Tensor], model: nn.Module) -> str:
    """Return in words how a cut model differs from the masked one, empty where it does not."""
    example = analysis.captured.example
    problem = difference(expected, model, example)
    if problem is None or not any(t.dtype == torch.float32 for t in expected) or "function" not in problem:
        return problem or ""
    try:
        wide = map_tensors(lambda t: t.double() if t.dtype == torch.float32 else t, example)
        exact = masked_outputs(analysis, keep, copy.deepcopy(analysis.graph).double(), wide)
        return difference(exact, copy.deepcopy(model).double(), wide, _IN_FLOAT64) or ""
    except (RuntimeError, TypeError):  # float32 that is written in the code, or MPS: the first look stands
        return problem


def _wrong_at_random(analysis: Analysis, keep: Keep, cuts: Cuts) -> str:
    """Return how the same cut differs from the masked model with random weights, empty where it does not."""
    if analysis.params > _LARGEST_TWICE:
        return ""
    other = at_random(analysis)
    pruned = replay(copied(other.model), cuts)
    example = other.captured.example
    try:
        wide = map_tensors(lambda t: t.double() if t.is_floating_point() else t, example)
        exact = masked_outputs(other, keep, copy.deepcopy(other.graph).double(), wide)
        problem = difference(exact, copy.deepcopy(pruned).double(), wide, _IN_FLOAT64)
    except (RuntimeError, TypeError):  # a type that is written in the code, or MPS, which has no float64
        problem = difference(masked_outputs(other, keep), pruned, example, _COARSE)
    # an error is none of the cut's: code may look at values, and these are none that the model had
    return f"with random weights {problem}" if problem and "function" in problem else ""


def masked_outputs(
    analysis: Analysis, keep: Keep, graph: fx.GraphModule | None = None, example: Any = None
) -> list[torch.Tensor]:
    """Return what the model must compute after a cut, for the captured example; graph: a copy in another type."""
    captured = analysis.captured
    example = captured.example if example is None else example
    values = [value for _, value in named_arguments(analysis.model, example)]
    with torch.no_grad(), kept_random_state(), unchanged(analysis.model):
        torch.manual_seed(0)
        masked = Masked(graph or analysis.graph, captured.program.graph, analysis.couplings, keep)
        return _tensors(masked.run(*values))


def outputs(model: nn.Module, example: Any, seed: int = 0) -> list[torch.Tensor]:
    """Return every output tensor in eval mode, with the same random numbers each time."""
    with evaluating(model), kept_random_state():
        torch.manual_seed(seed)
        return _tensors(call(model, example))


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]  # as torch.export sees outputs


def difference(
    expected: list[torch.Tensor], model: nn.Module, example: Any, tolerance: float | None = None
) -> str | None:
    """Return in words how a model's outputs differ from what is expected of it, None where they do not."""
    try:
        after = outputs(model, example)
    except Exception as error:
        return in_words(error)
    if [t.shape for t in expected] != [t.shape for t in after]:
        return f"its outputs change from {[tuple(t.shape) for t in expected]} to {[tuple(t.shape) for t in after]}"
    for a, b in zip(expected, after, strict=True):
        if (gap := relative_gap(a, b)) > (tolerance or _TOLERANCE.get(a.dtype, 1e-5)):
            return f"it computes another function than the masked model (relative difference {gap:.1e})"
    return None


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max |a - b| / max |a|; 0 for equal tensors, whatever they hold.

    What the code fills in (NaN, infinity, the least number of a type, -1e9) must be in the same places of both; it
    says nothing of the size of the others, next to which any difference would be small. Of whole numbers (a class,
    a mask) it is the part that differs, less one in a hundred: rounding may turn a few.
    """
    if torch.equal(a, b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return max(0.0, float((a != b).double().mean()) - 0.01)
    a, b = ((torch.view_as_real(t) if t.is_complex() else t).to("cpu", torch.float64) for t in (a, b))
    if not torch.equal(*(torch.where(t.isfinite(), 0.0, t.nan_to_num(0.5)) for t in (a, b))):
        return float("inf")
    filled = ~a.isfinite() | ((a.abs() >= _FILLED) & ((a - b).abs() <= 1e-6 * a.abs()))
    a, b = a[~filled], b[~filled]
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) if a.numel() else 0.0
