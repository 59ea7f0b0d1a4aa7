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

from paretune.cuts import Cuts, replay
from paretune.data import call, kept_random_state, map_tensors, tensors_of
from paretune.errors import SurgeryError
from paretune.graphs import from_json, placed, to_json
from paretune.prune._capture.capture import evaluating, in_words, unused, user_line
from paretune.prune._capture.given import copied, require_values, unchanged
from paretune.prune._capture.graph import flattened, named_arguments
from paretune.prune._compare import difference, outputs, relative_gap, tensors_in
from paretune.prune._surgery.fold import own_names
from paretune.prune._surgery.follow import follow
from paretune.prune._surgery.masked import Masked
from paretune.prune._surgery.random_weights import at_random
from paretune.prune._surgery.rewrite import rewrite
from paretune.prune._surgery.scalars import changed, scalars_of
from paretune.prune._surgery.surgery import Keep, make_cuts
from paretune.prune._training_mode import trains_otherwise

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

_IN_FLOAT64 = 1e-6
"""The second look, where float32 differs; models that take a norm or a softmax in float32 anyway reach 1e-7."""
_LARGEST_TWICE = 150_000_000
"""Parameters; a larger model is compared with its own weights only, for want of memory."""
_COARSE = 1e-3
"""With random weights, where float64 cannot tell: rounding adds up in layers that nobody trained."""

_CHOICES = 4
"""Of numbers in attributes with which the model's own forward runs, so many are compared with the masked model."""


class NotFollowedError(SurgeryError):
    """The model's own forward does not follow a cut, and nothing else was asked for."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"the model's own forward does not follow this cut: {problem}. Take sizes from the tensor "
            "(x.shape[1], -1) where they are written in the code, or protect the layers concerned, or let the "
            'result be a rewritten graph: form="auto"'
        )
        self.problem = problem


class WrongGraphError(SurgeryError):
    """The rewritten graph does not compute what it must."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"this cut could not be made: the rewritten graph is wrong: {problem}. This is a mistake of "
            "paretune: please report the model; protect the layers concerned until it is mended"
        )
        self.problem = problem


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
                wrong = wrong or _wrong_at_random(analysis, keep, manifest) or _untrainable(analysis, pruned)
                if not wrong:
                    return pruned, manifest, ()
                problem = problem or wrong
        except SurgeryError as error:
            problem = str(error)
        if form == "module":
            raise NotFollowedError(problem)
    if other := analysis.miscaptured:
        raise SurgeryError(
            f"{other}: what forward does is not all in it (it asks whether it is compiled, or switches autocast "
            "on, or has other weights in train mode: give it in eval mode then). Let it do the same there, or "
            "protect what the cut needs changed"
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
        raise WrongGraphError(wrong)
    why = f": the model's own forward does not follow ({problem})" if problem else ""
    notes = [f"the result is the captured graph, rewritten{why}"]
    if analysis.numbers is None:
        notes.append(f"it runs at a batch of {analysis.captured.batch} only: the model's code fixes its batch")
    if placed_names := [name for name, _ in model.named_modules() if placed(name) != name]:
        names = ", ".join(f"{name} as {placed(name)}" for name in placed_names[:3])
        notes.append(f"a graph has names that are its own, and calls {names}")
    if other := trains_otherwise(model, untouched(analysis), analysis.captured.example):
        notes.append(f"in training the graph is not what the model's code is: {other}")
    if lost := flattened(analysis.captured):
        notes.append(f"it returns the tensors of {', '.join(lost)} in a tuple: a graph cannot build that")
    return replay(copied(model), manifest), manifest, tuple(notes)


def untouched(analysis: Analysis) -> fx.GraphModule | None:
    """Return the graph of the uncut model as it would be delivered; None where that would take too much memory."""
    if analysis.params > _LARGEST_TWICE:
        return None
    model = copied(analysis.model)
    graph = rewrite(model, analysis.captured, analysis.couplings, analysis.everything, analysis.numbers)
    return from_json(model, to_json(graph, own_names(model)))


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


def _untrainable(analysis: Analysis, pruned: nn.Module) -> str:
    """Return in words what fails in train mode that the uncut model can do, empty where nothing does.

    Parameters that only training uses, in code that cannot be captured, are in no graph and were not cut with the
    rest: the vector that stands for masked steps, say.
    """
    if analysis.captured.training is not None or not unused(analysis.captured.program):
        return ""
    problems = []
    for model in (analysis.model, pruned):
        try:
            with evaluating(model, False), torch.no_grad(), kept_random_state(), unchanged(model):
                torch.manual_seed(0)
                call(model, analysis.captured.example)
            problems.append("")
        except Exception as error:
            problems.append(in_words(error))
    whole, cut = problems
    return f"in train mode it fails: {cut}" if cut and not whole else ""


def _wrong(analysis: Analysis, keep: Keep, expected: list[torch.Tensor], model: nn.Module) -> str:
    """Return in words how a cut model differs from the masked one, empty where it does not."""
    example = analysis.captured.example
    found = difference(expected, model, example, _IN_FLOAT64 if _casts(analysis) else None)
    if found is None or not found.in_values or not any(t.dtype == torch.float32 for t in expected):
        return found.words if found else ""
    try:
        wide = map_tensors(lambda t: t.double() if t.dtype == torch.float32 else t, example)
        exact = masked_outputs(analysis, keep, copy.deepcopy(analysis.graph).double(), wide)
        exactly = difference(exact, copy.deepcopy(model).double(), wide, _IN_FLOAT64)
    except (RuntimeError, TypeError):  # float32 that is written in the code, or MPS: the first look stands
        return found.words
    return exactly.words if exactly else ""


def _casts(analysis: Analysis) -> bool:
    """Tell whether a model in float64 computes something in float32, as its code says."""
    types = {
        value.dtype for node in analysis.captured.program.graph.nodes for value in tensors_of(node.meta.get("val"))
    }
    return {torch.float64, torch.float32} <= types


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
        found = difference(exact, copy.deepcopy(pruned).double(), wide, _IN_FLOAT64)
    except (RuntimeError, TypeError):  # a type that is written in the code, or MPS, which has no float64
        found = difference(masked_outputs(other, keep), pruned, example, _COARSE)
    # an error is none of the cut's: code may look at values, and these are none that the model had
    return f"with random weights {found.words}" if found and found.in_values else ""


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
        return tensors_in(masked.run(*values))
