"""The cut that `surgery_coverage.py` asks for, with how long the analysis and its export took."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from paretune import prune

RATIO = 0.5


def count(model: nn.Module) -> int:
    """Return the numbers in a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


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
