"""Widths that a caller names, by layer: how many bundles of each group must go for them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from paretune.errors import InputError, nearest
from paretune.prune._analysis import Analysis
from paretune.prune._couplings.couplings import Slice
from paretune.prune._couplings.groups import Group, channels_per_bundle, layer_name
from paretune.prune._ranking import Ranked


def by_widths(
    ranked: list[Ranked], analysis: Analysis, widths: Mapping[str, int], unknown: list[tuple[Group, str]]
) -> list[int]:
    """Return the counts that leave the widths asked for; unknown: groups without a score, with the reason."""
    makers = {
        layer_name(made.tensor): (index, made)
        for index, r in reversed(list(enumerate(ranked)))
        for made in reversed(r.group.makes)
    }
    counts: dict[int, tuple[int, str]] = {}
    for pattern, width in widths.items():
        hits = [layer for layer in makers if fnmatchcase(layer, pattern)]
        if not hits:
            whole = [(layer, why) for group, why in unknown for layer in group.layers]
            whole += [(name, reason) for name, reason, _ in analysis.unprunable]
            raise InputError(_no_layer(pattern, whole, list(makers)))
        for layer in hits:
            index, made = makers[layer]
            count = _count_for(ranked[index], layer, made, width, analysis)
            if counts.setdefault(index, (count, layer))[0] != count:
                raise InputError(
                    f"widths: '{layer}' and '{counts[index][1]}' are coupled and cannot have these unlike widths; "
                    "give one of them"
                )
    return [counts.get(index, (0, ""))[0] for index in range(len(ranked))]


def _no_layer(pattern: str, whole: list[tuple[str, str]], makers: list[str]) -> str:
    for name, reason in whole:
        if fnmatchcase(name, pattern):
            return f"widths: '{name}' cannot be cut: {reason}"
    return f"widths: '{pattern}' matches no layer that can be cut.{nearest(pattern, makers)}"


def _count_for(ranked: Ranked, layer: str, made: Slice, width: int, analysis: Analysis) -> int:
    """Return how many bundles must go so that a layer keeps `width` channels."""
    now, step = len(made.units), channels_per_bundle(analysis.couplings, made, ranked.group.blocks)
    least = now - len(ranked.bundles) * step
    if not isinstance(width, int) or isinstance(width, bool) or not least <= width <= now or (now - width) % step:
        steps = f" in steps of {step}" if step > 1 else ""
        raise InputError(f"widths: {layer}: {width} must be a whole number from {least} to {now}{steps}")
    return (now - width) // step
