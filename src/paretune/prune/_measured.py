"""Measured widths: a group loses as much as the model's outputs allow, seen with the group cut and repaired.

A score tells which channels of a group go first; how much each group may lose is another question, and scores of
unlike layers answer it badly. Here every group is cut alone to a handful of widths, the layers that read it are
repaired (`_repair`), and the squared error of the model's outputs is measured on a few calibration inputs.
Groups then shrink in the order of the error that the next step costs for what it saves, as if errors added up;
the lower convex hull of each group's errors makes that order the best one for every target.

As in Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018,
arXiv:1804.03230, layers are tried in turn and what is kept is measured; there a step is chosen, and the network
fine-tuned, before the next is tried. Here all is measured on the whole model once, without a label or a
gradient: a few dozen runs over a hundred inputs. When groups that are cut together hurt each other, that is not
seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.data import _random_state, _restore_random_state, tensors_of
from paretune.prune._collect import _reader
from paretune.prune._ranking import Ranked
from paretune.prune._repair import fitted, layers_to_repair
from paretune.prune._twins import Twins
from paretune.prune._units import Axis

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

Values = NDArray[np.float64]

SAMPLES = 128
LEVELS = 8
"""Widths that are tried of every group; between them errors are interpolated."""
RIDGE, THRIFT = 1e-2, 4
"""How layers are repaired here: one ridge for all, and a quarter of the rows."""


def measured(
    analysis: Analysis,
    ranked: Sequence[Ranked],
    data: Any,
    *,
    cost: Callable[[Axis], float],
    samples: int | None = None,
    seed: int = 0,
) -> list[Ranked]:
    """Return the groups with new scores: for every bundle, the error that it brings for what it saves of the cost.

    data: what a Task takes as `train`; labels are not looked at. cost: of what is left once some units are gone.
    Scores do not fall along a group, and compare across groups.
    """
    count = SAMPLES if samples is None else min(SAMPLES, samples)
    state = _random_state()
    try:
        batches = [inputs for inputs, _ in _reader(analysis, data, count, seed)()]
    finally:
        _restore_random_state(state)
    with torch.no_grad():
        curves = _curves(Twins.begin(analysis, analysis.floor, batches), ranked, seed)
    full = cost(np.empty(0, np.int64))
    out = []
    for r, curve in zip(ranked, curves, strict=True):
        saved = [full - cost(r.bundles[:count].ravel()) for count in range(len(r.bundles) + 1)]
        out.append(replace(r, scores=slopes(np.array(saved), curve)))
    return out


def _curves(twins: Twins, ranked: Sequence[Ranked], seed: int) -> list[Values]:
    """Return the error at the outputs, for every number of bundles that a group may lose, from 0 to all."""
    analysis = twins.analysis
    whole = list(twins.another(analysis.everything).outputs())
    firsts = [Twins(analysis, analysis.keep(r.bundles.ravel())).first for r in ranked]
    curves = [np.zeros(len(r.bundles) + 1) for r in ranked]
    order = {node: index for index, node in enumerate(analysis.graph.graph.nodes)}
    for index in sorted(range(len(ranked)), key=lambda i: order[firsts[i]] if firsts[i] else -1):
        r, first = ranked[index], firsts[index]
        if first is None:
            continue  # nothing reads these channels
        twins.wait_at(first)
        tried = np.unique(np.linspace(0, len(r.bundles), LEVELS + 1).round().astype(np.int64))
        errors = [0.0]
        for count in tried[1:]:
            keep = analysis.keep(r.bundles[:count].ravel())
            cut, draw = twins.another(keep), torch.Generator().manual_seed(seed)
            for layer in layers_to_repair(analysis, keep, every=False)[0]:
                fitted(cut, layer, RIDGE, draw, thrift=THRIFT)
            errors.append(_error(whole, list(cut.outputs())))
        curves[index] = np.interp(np.arange(len(r.bundles) + 1), tried, np.maximum.accumulate(errors))
    return curves


def _error(whole: Sequence[Any], cut: Sequence[Any]) -> float:
    """Return the squared error of what the model gives, as a fraction of its square: the mean over its outputs."""
    lost: dict[int, float] = {}
    size: dict[int, float] = {}
    for a, b in zip(whole, cut, strict=True):
        for index, (x, y) in enumerate(zip(_numbers(a), _numbers(b), strict=True)):
            lost[index] = lost.get(index, 0.0) + float((x.double() - y.double()).square().sum())
            size[index] = size.get(index, 0.0) + float(x.double().square().sum())
    return float(np.mean([lost[i] / size[i] if size[i] else 0.0 for i in lost])) if lost else 0.0


def _numbers(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]


def slopes(saved: Values, errors: Values) -> Values:
    """Return, for every step, the slope of the lower convex hull of (saved, error): (n,) for n + 1 points.

    >>> slopes(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 2.0, 2.0, 5.0]))
    array([1., 1., 3.])
    """
    found = np.zeros(len(saved) - 1)
    start = 0
    while start < len(found):
        ahead = saved[start + 1 :] - saved[start]
        steep = (errors[start + 1 :] - errors[start]) / np.maximum(ahead, 1e-9 * max(1.0, saved[-1]))
        length = len(steep) - int(np.argmin(steep[::-1]))  # of equal slopes the longest step
        found[start : start + length] = steep[length - 1]
        start += length
    return found
