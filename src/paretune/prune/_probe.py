"""Probe: does the model's own code follow a cut? Tried on a copy, before anything is promised.

The captured graph holds sizes as numbers, and cannot tell `view(n, 512)` from `view(n, x.shape[1])`. So one bundle
of every group is removed from a copy and the model's own forward is run; where it fails, or computes something
else than the uncut model with the same channels masked, the groups are halved until the culprits are found.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from paretune.cuts import replay
from paretune.data import call, map_tensors
from paretune.prune._capture import Capture, evaluating, line_of_error
from paretune.prune._couplings import Couplings
from paretune.prune._groups import Group
from paretune.prune._surgery import Keep, make_cuts, mask, maskable

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Relative to the largest output. Models in half precision are compared in float32 where their code allows it."""


def probe(model: nn.Module, captured: Capture, state: Couplings, groups: list[Group]) -> list[Group]:
    """Return the groups that the model's own code follows; the others are pinned with what went wrong."""
    good = _following(model, captured, state, groups)
    if len(good) < len(groups):  # those that pass alone or in halves must also pass together
        sound: list[Group] = []
        if _failure(model, captured, state, good) is None:
            return good
        for group in good:
            problem = _failure(model, captured, state, [*sound, group])
            if problem is None:
                sound.append(group)
            else:
                _pin(state, group, problem)
        return sound
    return good


def _following(model: nn.Module, captured: Capture, state: Couplings, groups: list[Group]) -> list[Group]:
    problem = _failure(model, captured, state, groups) if groups else None
    if problem is None:
        return groups
    if len(groups) == 1:
        _pin(state, groups[0], problem)
        return []
    half = len(groups) // 2
    return [g for part in (groups[:half], groups[half:]) for g in _following(model, captured, state, part)]


def _pin(state: Couplings, group: Group, problem: str) -> None:
    remedy = "sizes taken from the tensor (x.shape[1], -1) where they are written in the code"
    state.units.pin(
        group.blocks, state.units.reason(f"the model's own forward does not follow: {problem}", remedy)
    )


def _failure(model: nn.Module, captured: Capture, state: Couplings, groups: list[Group]) -> str | None:
    """Remove the first bundle of each group from a copy, and return what goes wrong, or None."""
    removed = np.concatenate([group.blocks[:, 0] for group in groups]) if groups else np.empty(0, np.int64)
    return difference(model, captured.example, state, state.units.keep(removed))


def difference(
    model: nn.Module, example: Any, state: Couplings, keep: Keep, cut: nn.Module | None = None
) -> str | None:
    """Compare a cut model with the uncut one, masked; return what differs in words, or None.

    cut: the model after the cut, made here where it is not given.
    """
    if cut is None:
        cut = replay(copy.deepcopy(model), make_cuts(model, state, keep))
    exact = maskable(state, keep)
    # The uncut model runs first, outside the `try`: what fails here too is not the cut's fault and is raised.
    before = run(mask(copy.deepcopy(model), state, keep) if exact else model, example)
    try:
        after = run(cut, example)
    except Exception as error:
        line = line_of_error(error)
        first = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        return f"{type(error).__name__}: {first}" + (f" (at {line})" if line else "")
    if [t.shape for t in before] != [t.shape for t in after]:
        return f"its outputs change from {[tuple(t.shape) for t in before]} to {[tuple(t.shape) for t in after]}"
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in before):
        return _difference_in_float32(model, example, state, keep)
    gaps = [relative_gap(a, b) / _TOLERANCE.get(a.dtype, 1e-3) for a, b in zip(before, after, strict=True)]
    if exact and max(gaps, default=0.0) > 1:
        return "it computes another function after the cut than before with the same channels masked"
    return None


def _difference_in_float32(model: nn.Module, example: Any, state: Couplings, keep: Keep) -> str | None:
    """Compare copies in float32; None where the model's code insists on half precision."""
    wide = map_tensors(lambda t: t.float() if t.is_floating_point() else t, example)
    model = copy.deepcopy(model).float()
    try:
        outputs = run(model, wide)
    except Exception:  # a type written in the code: shapes are all that was compared
        return None
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in outputs):
        return None
    return difference(model, wide, state, keep)


def run(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """Return every output tensor in eval mode, with the same random numbers each time."""
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = call(model, example)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]  # as torch.export sees outputs


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max |a - b| / max |a|; 0 for equal tensors, whatever they hold."""
    if not a.is_floating_point() or torch.equal(a, b):
        return 0.0
    a, b = (torch.nan_to_num(t.double()) for t in (a, b))
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
