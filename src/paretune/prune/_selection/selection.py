"""Selection: which channels go. By ratio, threshold, widths, or a budget of MACs, parameters, bytes or time.

In each group the bundles are ranked (`_ranking`), and what is chosen is how many of the lowest go: every target
is then a search over one number. Of every axis that is cut at least one channel stays (the best), or the
`multiple` that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from paretune.errors import InfeasibleError, InputError, check_whole, is_number, names_of, nearest
from paretune.prune._analysis import Analysis, require_groups
from paretune.prune._capture.given import require_values
from paretune.prune._couplings.couplings import Slice
from paretune.prune._couplings.groups import Group
from paretune.prune._couplings.parts import Part, makers, norms, parts_of
from paretune.prune._cut import Selection
from paretune.prune._evidence.batches import batches_of
from paretune.prune._evidence.evidence import OF_SAMPLES, Score, evaluate, name_of, needs, role
from paretune.prune._ranking import Ranked, by_makers, kinds, presence, rank, removed_units
from paretune.prune._selection.budget import BUDGETS, Budget, budget, target_amount
from paretune.prune._selection.by_clock import by_clock
from paretune.prune._selection.earlier import still_to_go, went_of
from paretune.prune._selection.knapsack import by_saving
from paretune.prune._selection.path import Path, given_back, nearest_allowed, path_of, stops_of
from paretune.prune._selection.spec import ScoreSpec, resolve_score
from paretune.prune._selection.widths import by_widths
from paretune.prune._surgery.surgery import kept
from paretune.target import Target

COMBINE = ("mean", "sum", "max", "first")
SCOPES = ("global", "local", "isomorphic")
PRECISION = 1 / 32
"""A budget that is measured is searched to this fraction of the way from nothing to all that can go."""

SLACK = 0.001
"""A part of a budget that need not be used: looking for what may stay for it takes longer than it gives."""

LONGEST = 5
"""So many parts of the least time are named where a latency is out of reach."""

DEFAULT = "geometric_median"
"""The score where none is named: the best of `benchmarks/scores.py`, and it sees all that makes channels."""
IN_TURN = ("ziplm",)
"""Scores that tell what a channel is worth when its turn to go has come; the others take each as the only one."""


def select(
    analysis: Analysis,
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    size: float | str | None = None,
    latency: float | str | None = None,
    widths: Mapping[str, int] | None = None,
    score: ScoreSpec | Score | None = None,
    scope: str = "global",
    multiple: int = 1,
    protect: Iterable[str] = (),
    combine: str = "mean",
    data: Any = None,
    loss: Any = None,
    samples: int | None = None,
    seed: int = 0,
    target: Target | None = None,
    whole: nn.Module | None = None,
) -> Selection:
    """Choose the channels to remove; give exactly one of ratio, threshold, widths, macs, params, size and latency.

    ratio: the fraction of prunable channels to remove, in [0, 1), of all together (scope "global"), of each
        group ("local") or of each kind ("isomorphic"); channels that are coupled count once.
    threshold: channels whose score is above it stay, the others go.
    widths: channels that layers keep, by the name or glob of the layer that makes them: {"layer1.*.conv1": 16}.
    macs, params: multiply-accumulates or parameters to keep, as a fraction of the model's in (0, 1], or as an
        amount ("20M").
    size: bytes of the state dict to keep, parameters and buffers in their own type, likewise ("200KB").
    latency: time to keep, a fraction ("0.5x") or an amount ("2ms"), on `target`: operators are timed at the widths
        in play (once for each CPU), channels go by what is lost for each millisecond saved (scope "global"), and
        a handful of candidates are cut, exported and timed beside the whole model, until one holds. It takes a
        minute, and another machine may differ.
    score: a name that `paretune methods scores` lists, one with options ({"taylor": {"of": "output"}}), or a
        function that names its evidence (`prune._evidence`). None: `DEFAULT`; for a threshold, which is in the
        unit of a score, `l1`.
    scope: "global": all groups are ranked together, by what they lose for each unit of the budget that is saved
        (`prune._selection.knapsack`); "isomorphic": so are groups of one kind, and every kind loses the same part
        (`prune._ranking.kinds`); "local": every group does.
    multiple: widths after the cut are multiples of this, at least one; a group that cannot get there stays whole.
    protect: names or globs of layers, or of modules with all that is in them, that keep the channels they make.
    combine: how the scores of coupled slices become one: mean, sum, max, or that of the first layer.
    data, loss: for scores that need them, as a Task takes `train` and `loss`; at most `samples` samples, drawn by
        `seed`, or all of them.
    whole: the model before earlier rounds, of which a ratio is to be gone after this one.
    """
    if not isinstance(analysis, Analysis):
        raise InputError(
            f"select takes what prune.analyze(model, example) gives, and got a {type(analysis).__name__}"
        )
    targets = {"ratio": ratio, "threshold": threshold, "widths": widths}
    budgets = {"macs": macs, "params": params, "size": size, "latency": latency}
    _check(scope=scope, multiple=multiple, combine=combine, **targets, **budgets)
    check_whole("prune.channels: samples", samples)
    check_whole("prune.channels: seed", seed, least=0)
    if threshold is not None and score is None:
        score = "l1"  # a threshold is in the unit of a score
    normalise = threshold is None and scope != "local"
    how = {"data": data, "loss": loss, "samples": samples, "seed": seed}
    ranked, unknown = _ranked(analysis, score, protect, combine, normalise, **how)
    bound = next((budget(analysis, n, asked, target) for n, asked in budgets.items() if asked is not None), None)
    timed = bound is not None and bound.timing is not None and scope == "global"
    if bound is not None and not timed:
        ranked = by_saving(analysis, ranked, bound.counts)
    if (multiple > 1 or timed) and widths is None:
        ranked = [part for r in ranked for part in by_makers(analysis.couplings, r)]
    ranked = [replace(r, went=went_of(analysis, r.group, r.size, whole)) for r in ranked]
    asked: list[int] | None = None
    if widths is not None:
        counts, multiple = by_widths(ranked, analysis, widths, unknown), 1
    elif threshold is not None:
        asked = [int((r.scores <= threshold).sum()) for r in ranked]
        counts = nearest_allowed(ranked, asked, multiple)
    elif ratio is not None and scope == "local":
        asked = [min(len(r.bundles), still_to_go(ratio, r.size, r.went)) for r in ranked]
        counts = nearest_allowed(ranked, asked, multiple)
    elif timed:
        assert bound is not None
        counts = _by_clock(analysis, ranked, bound, multiple)
    else:
        path = path_of(ranked, multiple, _kinds(analysis, ranked) if scope == "isomorphic" else None)
        if ratio is not None:
            counts, asked = _by_ratio(ranked, ratio, path)
        else:
            assert bound is not None
            counts = _by_budget(ranked, bound, path, scope, multiple)
    told = bound.notes(removed_units(ranked, counts)) if bound is not None else ()
    nothing = not ranked and not unknown
    return _selection(analysis, ranked, counts, asked, multiple, unknown, told, nothing=nothing)


def lowest_first(
    analysis: Analysis,
    *,
    score: ScoreSpec | Score | None = None,
    protect: Iterable[str] = (),
    data: Any = None,
    loss: Any = None,
    samples: int | None = None,
    seed: int = 0,
) -> tuple[list[Ranked], list[tuple[Group, str]]]:
    """Return every group with its channels in the order in which they go, and (group, why) of those without one.

    The arguments are those of `select`. Scores are as they are: groups do not compare.
    """
    how = {"data": data, "loss": loss, "samples": samples, "seed": seed}
    return _ranked(analysis, score, protect, "mean", normalise=False, **how)


def _ranked(
    analysis: Analysis,
    score: ScoreSpec | Score | None,
    protect: Iterable[str],
    combine: str,
    normalise: bool,
    **samples: Any,
) -> tuple[list[Ranked], list[tuple[Group, str]]]:
    """Return the groups that are not protected, ranked, and (group, why) of those that the score does not see."""
    score = resolve_score(DEFAULT if score is None else score)
    require_groups(analysis)
    require_values(analysis.model)
    free = unprotected(analysis, protect)
    samples["data"] = batches_of(samples["data"])
    ranked, blind = _scored(analysis, free, score, combine, normalise, **samples)
    needed = f"score '{name_of(score)}' needs {', '.join(needs(score))}, which"
    if free and not ranked:
        raise InputError(
            f"prune.channels: {needed} no layer that can be pruned has for all of its channels; choose another "
            "score, for example l1"
        )
    return ranked, [(group, f"{needed} not all of them have") for group in blind]


def to_target(
    analysis: Analysis,
    ranked: list[Ranked],
    target: float | Budget,
    *,
    multiple: int = 1,
    unknown: Sequence[tuple[Group, str]] = (),
) -> Selection:
    """Choose of groups whose bundles stand in order already, all together, the lowest score first.

    target: the fraction of the bundles to remove, or a budget. unknown: (group, why) of those that keep all.
    """
    if multiple > 1:
        ranked = [part for r in ranked for part in by_makers(analysis.couplings, r)]
    path, asked = path_of(ranked, multiple, None), None
    if isinstance(target, Budget):
        counts = _by_budget(ranked, target, path, "global", multiple)
    else:
        counts, asked = _by_ratio(ranked, target, path)
    return _selection(analysis, ranked, counts, asked, multiple, unknown)


def _by_ratio(ranked: list[Ranked], ratio: float, path: Path) -> tuple[list[int], list[int] | None]:
    """Return how many bundles go of each group, and how many were asked for where there are not so many."""
    most = ratio * (path.total + path.went) - path.went
    within = path.gone <= most + 1e-9
    least = within.all() and (path.gone < np.floor(most)).all()  # every group is at its least
    return path.counts(int(within.sum())), [len(r.bundles) for r in ranked] if least else None


def _selection(
    analysis: Analysis,
    ranked: list[Ranked],
    counts: list[int],
    asked: list[int] | None,
    multiple: int,
    unknown: Sequence[tuple[Group, str]],
    told: Sequence[str] = (),
    *,
    nothing: bool = False,
) -> Selection:
    removed = removed_units(ranked, counts)
    keep = analysis.keep(removed)
    lost = {r.group.layers[0]: r.group.makes[0] for r, k in zip(ranked, counts, strict=True) if k}
    after = {layer: int(kept(keep, made.units).sum()) for layer, made in lost.items()}
    whole = [f"{group.label} keeps its {group.width} channels: {why}" for group, why in unknown]
    none = ("nothing was cut: what is protected is all that could be",) if nothing else ()
    notes = (*none, *_stuck(ranked, multiple), *_emptied(ranked, counts, asked or counts, multiple), *whole, *told)
    return Selection(removed, after, notes, analysis.couplings.units.count)


def _scored(
    analysis: Analysis, groups: tuple[Group, ...], score: Score, combine: str, normalise: bool, **samples: Any
) -> tuple[list[Ranked], list[Group]]:
    """Return the groups ranked, and those that the score does not see."""
    state = analysis.couplings
    compared = presence(groups, _everywhere(analysis, groups)) if normalise else None
    parts = parts_of(state, groups, _slices(analysis, groups, score))
    values = evaluate(analysis, parts, score, **samples)
    return rank(state, groups, parts, values, combine, compared, in_turn=name_of(score) in IN_TURN)


def _slices(analysis: Analysis, groups: tuple[Group, ...], score: Score) -> Sequence[Slice]:
    """Return the slices whose evidence a score asks for."""
    state = analysis.couplings
    about = role(score)
    if about == "makes":
        return state.makes if any(name in OF_SAMPLES for name in needs(score)) else makers(groups)
    return state.reads if about == "reads" else norms(state)


def _kinds(analysis: Analysis, ranked: list[Ranked]) -> list[int]:
    groups = [r.group for r in ranked]
    return kinds(analysis.couplings, groups, _everywhere(analysis, groups))


def _everywhere(analysis: Analysis, groups: Sequence[Group]) -> Sequence[Part]:
    """Return where units of groups lie on what makes and on what reads them."""
    return parts_of(analysis.couplings, groups, [*makers(groups), *analysis.couplings.reads])


def unprotected(analysis: Analysis, protect: Iterable[str]) -> tuple[Group, ...]:
    """Return the groups none of whose layers is protected; a name that matches nothing is an InputError."""
    patterns = names_of("protect", protect)
    layers = [layer.name for layer in analysis.layers]
    for pattern in patterns:
        if not any(is_within(layer, pattern) for layer in layers):
            raise InputError(
                f"protect: '{pattern}' matches no layer.{nearest(pattern, layers)} Names are those of "
                "model.named_modules(), globs are allowed: 'layer1.*'"
            )
    return tuple(
        group
        for group in analysis.groups
        if not any(is_within(layer, pattern) for layer in group.layers for pattern in patterns)
    )


def is_within(layer: str, pattern: str) -> bool:
    """Tell whether a layer has this name, matches it as a glob, or lies in the module of this name."""
    return fnmatchcase(layer, pattern) or layer.startswith(pattern + ".")


def _check(*, scope: str, multiple: Any, combine: str, **targets: Any) -> None:
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"prune.channels: give exactly one of {', '.join(targets)}; got {' and '.join(given) or 'none'}"
        )
    ratio, threshold, widths = targets["ratio"], targets["threshold"], targets["widths"]
    if ratio is not None and not (is_number(ratio) and 0 <= ratio < 1):
        raise InputError(
            f"prune.channels: ratio={ratio!r} must be at least 0 and below 1; it is the fraction that is removed: "
            "ratio=0.5 removes half of the channels"
        )
    if threshold is not None and not (is_number(threshold) and threshold == threshold):
        raise InputError(
            f"prune.channels: threshold={threshold!r} must be a number: channels whose score is above it stay"
        )
    if widths is not None and not (isinstance(widths, Mapping) and all(isinstance(name, str) for name in widths)):
        raise InputError(
            f"prune.channels: widths={widths!r} must say how many channels layers keep, by name or glob: "
            '{"layer1.*.conv1": 16}'
        )
    for name, value, allowed in (("scope", scope, SCOPES), ("combine", combine, COMBINE)):
        if value not in allowed:
            raise InputError(
                f"prune.channels: {name}='{value}' must be one of {', '.join(allowed)}."
                f"{nearest(str(value), allowed)}"
            )
    if not isinstance(multiple, int) or multiple < 1:
        raise InputError(f"prune.channels: multiple={multiple!r} must be a whole number of at least 1")
    for name in BUDGETS:
        if targets[name] is not None:
            target_amount(name, targets[name], 1)


def _by_budget(ranked: list[Ranked], bound: Budget, path: Path, scope: str, multiple: int) -> list[int]:
    """Return the gentlest counts that cost at most the limit; bisection over one number."""
    steps = len(path.group) if scope != "local" else max((len(r.bundles) for r in ranked), default=0)

    def counts(step: int) -> list[int]:
        if scope != "local":
            return path.counts(step)
        return nearest_allowed(ranked, [round(step / max(1, steps) * len(r.bundles)) for r in ranked], multiple)

    def cost_of(lost: list[int]) -> float:
        return bound.cost(removed_units(ranked, lost))

    def cost(step: int) -> float:
        return cost_of(counts(step))

    low, high = 0, steps
    if cost(low) <= bound.limit:
        return counts(low)
    if (floor := cost(high)) > bound.limit:
        raise InfeasibleError(_out_of_reach(bound, floor, multiple))
    nearest = max(1, round(PRECISION * steps)) if bound.measured else 1
    while high - low > nearest:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= bound.limit else (middle, high)
    if scope == "local" or bound.measured or cost(high) > (1 - SLACK) * bound.limit:
        return counts(high)
    return given_back(path, high, lambda lost: cost_of(lost) <= bound.limit)


def _by_clock(analysis: Analysis, ranked: list[Ranked], bound: Budget, multiple: int) -> list[int]:
    """Return the gentlest counts that hold a latency as measured; where none does, say what takes the time."""
    counts, least = by_clock(analysis, ranked, bound, multiple)
    if counts is None:
        assert bound.timing is not None
        removed = removed_units(ranked, least)
        parts = list(bound.timing.clock.parts(analysis.keep(removed)).items())[:LONGEST]
        made = ", ".join(f"{ms:.3g} ms {name}" for name, ms in parts)
        raise InfeasibleError(
            f"{_out_of_reach(bound, bound.cost(removed), multiple)}. Most of what is left: {made}"
        )
    return counts


def _out_of_reach(bound: Budget, floor: float, multiple: int) -> str:
    number = "{:.3g}".format if bound.measured else "{:.0f}".format
    return (
        f"{bound.step}: {bound.name}={bound.asked} is {number(bound.limit)} {bound.unit}, and the least that "
        f"this model can be cut to is {number(floor)} ({floor / max(1e-9, bound.full):.3f} of its "
        f"{number(bound.full)})"
        + (f" with multiple={multiple}" if multiple > 1 else "")
        + ". Nothing was cut. Keep more, protect fewer layers, or see `paretune check` for what is prunable"
    )


def _stuck(ranked: list[Ranked], multiple: int) -> tuple[str, ...]:
    """Return a note for every group that the multiple leaves no smaller width."""
    return tuple(
        f"{r.title} keeps its {r.width} channels: no smaller width that it can have is a multiple of {multiple}"
        for r in ranked
        if len(r.bundles) and len(stops_of(r, multiple)) == 1
    )


def _emptied(ranked: list[Ranked], counts: list[int], asked: list[int], multiple: int) -> tuple[str, ...]:
    """Return a note for each group that lost all it could, or all that its multiple lets it."""
    return tuple(
        f"{r.title} keeps {r.width - count * r.step} of {r.width} channels, its least"
        + (f" that is a multiple of {multiple}" if count < len(r.bundles) else "")
        for r, count, more in zip(ranked, counts, asked, strict=True)
        if count
        and (count == len(r.bundles) or (count == stops_of(r, multiple)[-1] and 2 * more > count + r.size))
    )
