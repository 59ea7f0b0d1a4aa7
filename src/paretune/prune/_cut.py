"""A cut: what is selected goes from a copy of the analysed model, and what comes out.

`predict` says what a selection would leave, exactly and without doing it; `cut` does it. The result is compared
with the masked model before it is handed over (`_deliver`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paretune.cuts import Cuts
from paretune.errors import InputError, nearest
from paretune.prune._analysis import TRIED, Analysis, analyze
from paretune.prune._capture.capture import accepts
from paretune.prune._deliver import deliver
from paretune.prune._surgery.surgery import Keep

FORMS = ("auto", "module", "graph")


@dataclass(frozen=True)
class Selection:
    """What is to be removed."""

    removed: NDArray[np.int64]
    """Units of the analysis."""
    widths: dict[str, int]
    """Channels that the first layer of each group keeps, for the groups that lose some."""
    notes: tuple[str, ...] = ()
    """What was not done as asked: widths that no multiple reaches, targets that fell between two widths."""
    units: int | None = None
    """Units of the analysis that it was made from: no other can be cut by it."""


def keep_of(analysis: Analysis, selection: Selection) -> Keep:
    """Return for every unit whether it stays; a selection that was made from another model is an InputError."""
    if not isinstance(analysis, Analysis) or not isinstance(selection, Selection):
        raise InputError(
            "give what prune.analyze(model, example) and prune.select(analysis, ...) gave, in this order; got "
            f"{type(analysis).__name__} and {type(selection).__name__}"
        )
    if selection.units not in (None, analysis.couplings.units.count):
        raise InputError("this selection was made from another model: select from the analysis that is to be cut")
    return analysis.keep(selection.removed)


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a model."""

    model: nn.Module
    cuts: Cuts
    """The manifest: `prune.replay(fresh_model, cuts)` does the same again."""
    unprunable: tuple[tuple[str, str, str], ...]
    """(layer, reason, what would make it prunable), for layers that cannot lose a channel."""
    before: dict[str, int]
    """{"macs": for one sample, "params": tied ones once} of the model as given; `prune.weights` counts
    "nonzero" parameters instead of MACs."""
    after: dict[str, int]
    widths: dict[str, int]
    """Channels that the first layer of each group keeps, for the groups that lost some."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What a selection would leave, without doing it."""

    layers: list[dict[str, Any]]
    """One row per layer; `shape` is its output now, `after` its output after the cut."""
    macs: int
    params: int


def check_form(form: str) -> str:
    """Return the form, or raise an InputError with the nearest right name."""
    if form not in FORMS:
        raise InputError(f"form='{form}' must be one of {', '.join(FORMS)}.{nearest(str(form), FORMS)}")
    return form


def predict(analysis: Analysis, selection: Selection) -> Prediction:
    """Return shapes, MACs and parameters after a selection is cut: exact, nothing is cut or run."""
    keep = keep_of(analysis, selection)
    return Prediction(analysis.table(keep), analysis.macs_of(keep), analysis.params_of(keep))


def cut(analysis: Analysis, selection: Selection, *, form: str = "auto") -> Pruned:
    """Cut a selection out of a copy of the analysed model, and check the copy against the masked model."""
    keep = keep_of(analysis, selection)
    check_form(form)
    if analysis.macs > TRIED:  # it was not run yet
        accepts(analysis.model, analysis.captured.example)
    pruned, cuts, notes = deliver(analysis, keep, form)
    cuts = replace(cuts, folded=analysis.folded, base=analysis.base)
    after = {"macs": analysis.macs_of(keep), "params": analysis.params_of(keep)}
    left = sum(parameter.numel() for parameter in pruned.parameters())
    if left < after["params"]:  # modules that nothing reads any more went as a whole: experts, training branches
        after = {"macs": analyze(pruned, analysis.captured.example).macs, "params": left}
    return Pruned(
        model=pruned,
        cuts=cuts,
        unprunable=analysis.unprunable,
        before={"macs": analysis.macs, "params": analysis.params},
        after=after,
        widths=selection.widths,
        notes=(*analysis.notes, *selection.notes, *notes),
    )
