"""Selection: which channels go. By ratio, threshold, target of MACs, or explicit widths.

In each group the bundles are ranked (`_ranking`), and what is chosen is how many of the lowest go: every target
is then a search over one number. Of every axis that is cut at least one channel stays (the best), or the
`multiple` that is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import InfeasibleError, InputError, nearest
from paretune.methods import find
from paretune.prune._analysis import Analysis, require_groups
from paretune.prune._couplings import Slice
from paretune.prune._groups import Group, channels_per_bundle, layer_name
from paretune.prune._ranking import Ranked, Score, rank, removed_units
from paretune.prune._units import Axis
from paretune.recipe import amount

COMBINE = ("mean", "sum", "max", "first")


@dataclass(frozen=True)
class Selection:
    """What is to be removed."""

    removed: NDArray[np.int64]
    """Units of the analysis."""
    widths: dict[str, int]
    """Channels that the first layer of each group keeps, for the groups that lose some."""
    notes: tuple[str, ...] = ()
    """What was not done as asked: widths that no multiple reaches, targets that fell between two widths."""


def select(
    analysis: Analysis,
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    macs: float | str | None = None,
    widths: Mapping[str, int] | None = None,
    score: str | Score = "l1",
    scope: str = "global",
    multiple: int = 1,
    protect: Iterable[str] = (),
    combine: str = "mean",
) -> Selection:
    """Choose the channels to remove; give exactly one of ratio, threshold, macs and widths.

    ratio: the fraction of prunable channels to remove, in [0, 1), of all together (scope "global") or of each
        group (scope "local"); channels that are coupled count once.
    threshold: channels whose score is above it stay, the others go.
    macs: multiply-accumulates to keep, as a fraction of the model's in (0, 1], or as an amount ("20M").
    widths: channels that layers keep, by the name or glob of the layer that makes them: {"layer1.*.conv1": 16}.
    multiple: widths after the cut are multiples of this, at least one; a group that cannot get there stays whole.
    protect: names or globs of layers, or of modules with all that is in them, that keep the channels they make.
    combine: how the scores of coupled slices become one: mean, sum, max, or that of the first layer.
    """
    _check(
        ratio=ratio, threshold=threshold, macs=macs, widths=widths, scope=scope, multiple=multiple, combine=combine
    )
    require_groups(analysis)
    free = unprotected(analysis, protect)
    normalise = threshold is None and scope == "global"
    ranked = rank(analysis.model, analysis.couplings, free, _resolve(score), combine, normalise=normalise)
    if widths is not None:
        counts, multiple = _by_widths(ranked, analysis, widths), 1
    elif threshold is not None:
        counts = _nearest(ranked, [int((r.scores <= threshold).sum()) for r in ranked], multiple)
    elif ratio is not None:
        counts = _by_ratio(ranked, ratio, scope, multiple)
    else:
        assert macs is not None
        counts = _by_macs(analysis, ranked, macs, scope, multiple)
    removed = removed_units(ranked, counts)
    after = {r.group.layers[0]: r.group.width - k * r.group.step for r, k in zip(ranked, counts, strict=True) if k}
    return Selection(removed, after, (*_stuck(ranked, multiple), *_emptied(ranked, counts)))


def unprotected(analysis: Analysis, protect: Iterable[str]) -> tuple[Group, ...]:
    """Return the groups none of whose layers is protected; a name that matches nothing is an InputError."""
    patterns = [protect] if isinstance(protect, str) else list(protect)
    layers = [layer.name for layer in analysis.layers]
    for pattern in patterns:
        if not any(_matches(layer, pattern) for layer in layers):
            raise InputError(
                f"protect: '{pattern}' matches no layer.{nearest(pattern, layers)} Names are those of "
                "model.named_modules(), globs are allowed: 'layer1.*'"
            )
    return tuple(
        group
        for group in analysis.groups
        if not any(_matches(layer, pattern) for layer in group.layers for pattern in patterns)
    )


def _matches(layer: str, pattern: str) -> bool:
    return fnmatchcase(layer, pattern) or layer.startswith(pattern + ".")


def _check(*, scope: str, multiple: Any, combine: str, **targets: Any) -> None:
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"prune.channels: give exactly one of {', '.join(targets)}; got {' and '.join(given) or 'none'}"
        )
    ratio = targets["ratio"]
    if ratio is not None and not 0 <= ratio < 1:
        raise InputError(
            f"prune.channels: ratio={ratio} must be at least 0 and below 1; it is the fraction that is removed: "
            "ratio=0.5 removes half of the channels"
        )
    for name, value, allowed in (("scope", scope, ("global", "local")), ("combine", combine, COMBINE)):
        if value not in allowed:
            raise InputError(
                f"prune.channels: {name}='{value}' must be one of {', '.join(allowed)}"
                f"{nearest(str(value), allowed)}"
            )
    if not isinstance(multiple, int) or multiple < 1:
        raise InputError(f"prune.channels: multiple={multiple!r} must be a whole number of at least 1")
    if targets["macs"] is not None:
        target_macs(targets["macs"], 1)


def target_macs(macs: float | str, full: int) -> float:
    """Return the multiply-accumulates to keep: a fraction of `full`, or the amount itself ("20M", above 1)."""
    number, relative = (
        amount(macs, {"K": 1e3, "M": 1e6, "G": 1e9}, "macs")
        if isinstance(macs, str)
        else (float(macs), 0 < float(macs) <= 1)
    )
    if number <= 0 or (relative and number > 1):
        raise InputError(
            f"prune.channels: macs={macs} must be above 0 and at most 1, or an amount like '20M'; "
            "macs=0.5 keeps half of the multiply-accumulates"
        )
    return number * full if relative else number


def _resolve(score: str | Score) -> Score:
    function: Score = find("scores", score) if isinstance(score, str) else score
    needs = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty and name != "weight"
    ]
    if needs:
        raise InputError(
            f"prune.channels: score '{getattr(function, '__name__', score)}' needs {', '.join(needs)}, which this "
            "version does not supply; scores of `weight` alone are used here, for example l1"
        )
    return function


def _by_ratio(ranked: list[Ranked], ratio: float, scope: str, multiple: int) -> list[int]:
    if scope == "local":
        asked = [min(len(r.bundles), int(ratio * r.group.blocks.shape[1] + 1e-9)) for r in ranked]
        return _nearest(ranked, asked, multiple)
    path = _path(ranked, multiple)
    parts = np.array([r.bundles.shape[1] for r in ranked])
    gone = np.cumsum((path.after - path.before) * parts[path.group])
    total = sum(r.group.blocks.size for r in ranked)
    return path.counts(int((gone <= ratio * total + 1e-9).sum()))


@dataclass(frozen=True)
class _Path:
    """The order in which groups shrink, one move after the other; each leaves a width that is allowed."""

    group: Axis
    before: Axis
    after: Axis
    """(moves,): which group moves, and how many bundles it has lost before and after the move."""
    groups: int

    def counts(self, moves: int) -> list[int]:
        """Return how many bundles each group has lost after the first `moves` moves."""
        lost = np.zeros(self.groups, np.int64)
        np.maximum.at(lost, self.group[:moves], self.after[:moves])
        return [int(count) for count in lost]


def _path(ranked: list[Ranked], multiple: int) -> _Path:
    """Return all moves, the lowest mean score first; in a group they keep their order."""
    moves: list[tuple[float, int, int, int]] = []
    for index, r in enumerate(ranked):
        stops, worst = _stops(r, multiple), -np.inf
        for before, after in pairwise(stops):
            worst = max(worst, float(r.scores[before:after].mean()))
            moves.append((worst, index, int(before), int(after)))
    moves.sort()
    columns = np.array([move[1:] for move in moves], np.int64).reshape(-1, 3)
    return _Path(columns[:, 0], columns[:, 1], columns[:, 2], len(ranked))


def _stops(ranked: Ranked, multiple: int) -> Axis:
    """Return how many bundles a group may lose so that its width is a multiple; 0 is always allowed."""
    lost = np.arange(len(ranked.bundles) + 1)
    fits = (ranked.group.width - lost * ranked.group.step) % multiple == 0
    return np.union1d(lost[fits], [0])


def _nearest(ranked: list[Ranked], counts: list[int], multiple: int) -> list[int]:
    """Move every count to the nearest that is allowed; ties keep more channels."""
    stops = [_stops(r, multiple) for r in ranked]
    return [int(s[np.argmin(np.abs(s - count))]) for s, count in zip(stops, counts, strict=True)]


def _by_macs(analysis: Analysis, ranked: list[Ranked], macs: float | str, scope: str, multiple: int) -> list[int]:
    """Return the gentlest counts whose cost is at most the target; bisection over one number."""
    target = target_macs(macs, analysis.macs)
    path = _path(ranked, multiple)
    steps = len(path.group) if scope == "global" else max((len(r.bundles) for r in ranked), default=0)

    def counts(step: int) -> list[int]:
        if scope == "global":
            return path.counts(step)
        return _nearest(ranked, [round(step / max(1, steps) * len(r.bundles)) for r in ranked], multiple)

    def cost_of(lost: list[int]) -> int:
        return analysis.macs_of(analysis.keep(removed_units(ranked, lost)))

    def cost(step: int) -> int:
        return cost_of(counts(step))

    low, high = 0, steps
    if (floor := cost(high)) > target:
        raise InfeasibleError(
            f"prune.channels: macs={macs} is {target:.0f} multiply-accumulates, and the least that this model can "
            f"be cut to is {floor} ({floor / max(1, analysis.macs):.3f} of its {analysis.macs})"
            + (f" with multiple={multiple}" if multiple > 1 else "")
            + ". Nothing was cut. Keep more, protect fewer layers, or see `paretune check` for what is prunable"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= target else (middle + 1, high)
    if scope == "local" or cost(low) > 0.98 * target:
        return counts(low)
    return _given_back(path, low, lambda lost: cost_of(lost) <= target)


def _given_back(path: _Path, moves: int, enough: Callable[[list[int]], bool]) -> list[int]:
    """Undo the last move of every group, the latest first, where the target still holds without it.

    A move of a wide group can overshoot the target by far; what smaller groups lost before it may then stay.
    """
    counts = path.counts(moves)
    seen: set[int] = set()
    for move in range(moves - 1, -1, -1):
        group = int(path.group[move])
        if group in seen:
            continue
        seen.add(group)
        trial = [*counts[:group], int(path.before[move]), *counts[group + 1 :]]
        if enough(trial):
            counts = trial
    return counts


def _stuck(ranked: list[Ranked], multiple: int) -> tuple[str, ...]:
    """Return a note for every group that the multiple leaves no smaller width."""
    return tuple(
        f"{r.group.title} keeps its {r.group.width} channels: no smaller width that it can have is a multiple of "
        f"{multiple}"
        for r in ranked
        if len(r.bundles) and len(_stops(r, multiple)) == 1
    )


def _emptied(ranked: list[Ranked], counts: list[int]) -> tuple[str, ...]:
    """Return a note for every group that lost all it could."""
    return tuple(
        f"{r.group.title} keeps {r.group.width - count * r.group.step} of {r.group.width} channels, its least"
        for r, count in zip(ranked, counts, strict=True)
        if count and count == len(r.bundles)
    )


def _by_widths(ranked: list[Ranked], analysis: Analysis, widths: Mapping[str, int]) -> list[int]:
    """Return the counts that leave the widths asked for."""
    makers = {
        layer_name(made.tensor): (index, made)
        for index, r in reversed(list(enumerate(ranked)))
        for made in reversed(r.group.makes)
    }
    counts: dict[int, tuple[int, str]] = {}
    for pattern, width in widths.items():
        hits = [layer for layer in makers if fnmatchcase(layer, pattern)]
        if not hits:
            raise InputError(_no_layer(pattern, analysis, list(makers)))
        for layer in hits:
            index, made = makers[layer]
            count = _count_for(ranked[index], layer, made, width, analysis)
            if counts.setdefault(index, (count, layer))[0] != count:
                raise InputError(
                    f"widths: '{layer}' and '{counts[index][1]}' are coupled and cannot have these unlike widths; "
                    "give one of them"
                )
    return [counts.get(index, (0, ""))[0] for index in range(len(ranked))]


def _no_layer(pattern: str, analysis: Analysis, makers: list[str]) -> str:
    for name, reason, _ in analysis.unprunable:
        if fnmatchcase(name, pattern):
            return f"widths: '{name}' cannot be cut: {reason}"
    return f"widths: '{pattern}' matches no layer that can be cut.{nearest(pattern, makers)}"


def _count_for(ranked: Ranked, layer: str, made: Slice, width: int, analysis: Analysis) -> int:
    """Return how many bundles must go so that a layer keeps `width` channels."""
    now, step = len(made.units), channels_per_bundle(analysis.couplings, made, ranked.group.blocks)
    least = now - len(ranked.bundles) * step
    if not isinstance(width, int) or not least <= width <= now or (now - width) % step:
        steps = f" in steps of {step}" if step > 1 else ""
        raise InputError(f"widths: {layer}: {width} must be a whole number from {least} to {now}{steps}")
    return (now - width) // step
