"""Neighbour pruning: redundant units go, and their nearest survivors take over what they gave.

Of every layer the least important unit is looked at first, then its neighbours by similarity, recursively
(`tree`). What reads a removed unit reads its nearest survivor instead, with the weight that it had times the
projection of the removed unit onto the survivor: of two units whose weights are the same but for a positive factor
nothing is lost, behind a ReLU too. No data are needed; with data the correlation of activations can take the place
of the cosine of weights.

Source: Srinivas and Babu, "Data-free Parameter Pruning for Deep Neural Networks", BMVC 2015, arXiv:1507.06149.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paretune import masks
from paretune.cuts import replay
from paretune.errors import InputError, RecipeError, check_whole, is_number, nearest
from paretune.prune._analysis import Analysis, analyze, only, require_groups
from paretune.prune._capture.given import copied, require_values
from paretune.prune._couplings.groups import STRUCTURES
from paretune.prune._couplings.parts import Part, parts_of, tensor_of
from paretune.prune._couplings.units import Axis
from paretune.prune._cut import Pruned, Selection, check_form
from paretune.prune._hand_over import hand_over
from paretune.prune._neighbours.tree import Branch, removal_tree
from paretune.prune._neighbours.units import Likeness, by_activations, by_weights, importance_of
from paretune.prune._probe import cut_what_can_be
from paretune.prune._ranking import anchors
from paretune.prune._selection.earlier import still_to_go, went_of
from paretune.prune._selection.selection import unprotected
from paretune.prune._surgery.surgery import kept
from paretune.recipe import Context, Range, Step, StepResult, check_ranges

if TYPE_CHECKING:
    from paretune.task import Task

REMOVE = ("above", "below")
OF = ("weights", "activations")
COMPARABLE = ("channels", "neurons")
"""Structures that are compared where none are named."""


@dataclass(frozen=True)
class Merged(Pruned):
    """A pruned copy of a model whose survivors took over what was removed."""

    trees: tuple[tuple[str, tuple[Branch, ...]], ...] = ()
    """(group, what went of it in the order in which it went): the units of a branch count within the group."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How units are compared, and which go."""

    similarity: float | None = None
    ratio: float | None = None
    remove: str = "above"
    of: str = "weights"
    merge: bool = True

    def __post_init__(self) -> None:
        if (self.similarity is None) == (self.ratio is None):
            given = "both" if self.ratio is not None else "none"
            raise InputError(f"prune.neighbours: give exactly one of similarity and ratio; got {given}")
        if self.similarity is not None and not (is_number(self.similarity) and -1 <= self.similarity <= 1):
            raise InputError(
                f"prune.neighbours: similarity={self.similarity!r} must be from -1 to 1: units more alike than it "
                "are redundant, 1 is the same but for a factor"
            )
        if self.ratio is not None and not (is_number(self.ratio) and 0 <= self.ratio < 1):
            raise InputError(
                f"prune.neighbours: ratio={self.ratio!r} must be at least 0 and below 1; it is the fraction of "
                "the units of every layer that is removed"
            )
        for name, allowed in (("remove", REMOVE), ("of", OF)):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(
                    f"prune.neighbours: {name}={value!r} must be one of {', '.join(allowed)}."
                    f"{nearest(str(value), allowed)}"
                )
        if self.remove == "below" and self.ratio is not None:
            raise InputError(
                "prune.neighbours: remove='below' needs similarity=, the likeness below which it spreads"
            )

    def tree(
        self, importance: NDArray[np.float64], alike: Likeness, stays: NDArray[np.bool_], went: int = 0
    ) -> list[Branch]:
        """Return what goes of one group, of which so many units went in earlier rounds."""
        how: dict[str, Any] = {"joined": alike.joined, "stays": stays, "remove": self.remove}
        if self.similarity is not None:
            return removal_tree(importance, alike.similarity, self.similarity, **how)
        assert self.ratio is not None
        most = still_to_go(self.ratio, len(importance), went)
        levels = np.unique(alike.similarity)[::-1]
        low, high = 0, len(levels)  # the largest likeness at which so many are redundant
        while low < high:
            middle = (low + high) // 2
            enough = len(removal_tree(importance, alike.similarity, levels[middle], **how)) >= most
            low, high = (low, middle) if enough else (middle + 1, high)
        threshold = levels[low] if low < len(levels) else -np.inf
        return removal_tree(importance, alike.similarity, threshold, most=most, **how)


def neighbours(
    model: nn.Module,
    example: Any,
    *,
    similarity: float | None = None,
    ratio: float | None = None,
    remove: str = "above",
    of: str = "weights",
    merge: bool = True,
    protect: Iterable[str] = (),
    structures: Iterable[str] = (),
    data: Any = None,
    samples: int | None = None,
    seed: int = 0,
    form: str = "auto",
    whole: nn.Module | None = None,
) -> Merged:
    """Remove units of a copy of a model that others can stand for; the model that is given is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
    Give exactly one of
        similarity: T, from -1 to 1;
        ratio: the fraction of the units of every group to remove, in [0, 1): the most alike.
    remove: "above" takes units more alike than T to a more important one, until no two are; "below" spreads from
    the
        least important unit to those joined to it that are less alike than T, until all of them are gone. One unit
        of each group always stays.
    of: "weights" compares by the cosine of what makes the units, biases and a batch norm behind included;
        "activations" by the correlation of what the next layer reads of them, on `samples` of `data`.
    merge: what reads a removed unit reads its nearest survivor instead.
    protect: layers, by name or glob, that keep the units they make.
    structures: some of `prune.STRUCTURES`; channels and neurons where none is named.
    form: as `prune.channels` takes it.
    whole: the model before earlier rounds, of which a ratio is to be gone after this one.
    """
    walk = Walk(similarity=similarity, ratio=ratio, remove=remove, of=of, merge=merge)
    check_form(form)
    check_whole("prune.neighbours: samples", samples)
    if of == "activations" and data is None:
        raise InputError(
            "prune.neighbours: of='activations' needs calibration inputs: pass data=..., labels are not used"
        )
    analysis = only(analyze(model, example), tuple(structures) or COMPARABLE)
    require_groups(analysis)
    require_values(analysis.model)
    found: dict[str, list[Branch]] = {}
    likenesses: dict[str, Likeness] = {}

    def choose(analysis: Analysis) -> Selection:
        found.clear()
        return _choose(analysis, walk, protect, found, likenesses, whole, data=data, samples=samples, seed=seed)

    analysis, _, pruned = cut_what_can_be(analysis, choose, form)
    if merge:
        merged = copied(analysis.model)
        _merge(analysis, merged, found, likenesses)
        pruned = replace(pruned, model=_cut_again(merged, pruned))
    values = {field.name: getattr(pruned, field.name) for field in fields(Pruned)}
    return Merged(**values, trees=tuple((name, tuple(tree)) for name, tree in found.items() if tree))


def _cut_again(merged: nn.Module, pruned: Pruned) -> nn.Module:
    """Return the model cut as it was, over other weights; what was folded is folded in them already."""
    return replay(merged, replace(pruned.cuts, folded=(), base=())).train(pruned.model.training)


def _choose(
    analysis: Analysis,
    walk: Walk,
    protect: Iterable[str],
    found: dict[str, list[Branch]],
    likenesses: dict[str, Likeness],
    whole: nn.Module | None,
    **how: Any,
) -> Selection:
    """Return what goes of every group, and note the trees."""
    every = unprotected(analysis, protect)
    groups = [group for group in every if len(group.blocks) == 1]  # units that go alone
    importance = [importance_of(analysis, group) for group in groups]
    stays = anchors(analysis.couplings, groups, [values.reshape(1, -1) for values in importance])
    moments = by_activations(analysis, groups, **how) if walk.of == "activations" else {}
    removed: list[Axis] = []
    notes = [
        f"{group.label} keeps its units: they go in equal parts only" for group in every if len(group.blocks) > 1
    ]
    for index, (group, values) in enumerate(zip(groups, importance, strict=True)):
        alike = by_weights(analysis, group)
        if walk.of == "activations":
            if index not in moments:
                notes.append(f"{group.label} keeps its units: no layer reads all of them, each by itself")
                continue
            alike = moments[index].likeness(alike.joined)
        likenesses[group.label] = alike
        went = went_of(analysis, group, len(values), whole)
        found[group.label] = walk.tree(values, alike, stays[group.blocks[0]], went)
        removed.append(group.blocks[0][[branch.unit for branch in found[group.label]]])
    units = np.concatenate(removed) if removed else np.empty(0, np.int64)
    keep = analysis.keep(units)
    widths = {
        group.layers[0]: int(kept(keep, group.makes[0].units).sum()) for group in groups if found.get(group.label)
    }
    if not widths:
        notes.append("nothing was removed: no two units are as alike as that")
    return Selection(units, widths, tuple(notes), analysis.couplings.units.count)


def _merge(
    analysis: Analysis, model: nn.Module, found: dict[str, list[Branch]], likenesses: dict[str, Likeness]
) -> None:
    """Let what reads a removed unit read its nearest survivor, in place; the removed columns stay as they were."""
    groups = [group for group in analysis.groups if found.get(group.label)]
    held = masks.masked(model)
    for part in parts_of(analysis.couplings, groups, analysis.couplings.reads):
        label = groups[part.group].label
        zeros_stay = part.slice.tensor in held
        _take_over(model, part, found[label], likenesses[label], zeros_stay=zeros_stay)


def _take_over(model: nn.Module, part: Part, tree: Sequence[Branch], alike: Likeness, *, zeros_stay: bool) -> None:
    tensor = tensor_of(model, part.slice.tensor).detach()
    block = tensor.chunk(part.blocks)[part.block] if part.blocks > 1 else tensor
    rows = block.movedim(part.slice.axis, 0)
    places = dict(zip(part.units.tolist(), part.positions.to(tensor.device), strict=True))
    for branch in tree:
        if branch.into is not None and branch.unit in places and branch.into in places:
            source, target = places[branch.unit], places[branch.into]
            given = float(alike.scale[branch.unit, branch.into]) * rows[source]
            rows[target] += given * (rows[target] != 0) if zeros_stay else given


@final
@dataclass(frozen=True, kw_only=True)
class Neighbours(Step):
    """Remove units that others can stand for, which take over what they gave: no data, no training.

    Batch norm is recalibrated on training samples afterwards. Without a target, half of the units of every layer
    go.
    """

    name: ClassVar[str] = "prune.neighbours"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)
    of_whole: ClassVar[bool] = True

    similarity: Annotated[float | None, Range(-1.0, 1.0)] = None
    """Units more alike than this to a more important one go."""
    ratio: Annotated[float | None, Range(0.0, 1.0, high_open=True)] = None
    """Fraction of the units of every layer to remove, the most alike."""
    remove: str = "above"
    """`above`: redundant units; `below`: from the least important unit on, those less alike than `similarity`."""
    of: str = "weights"
    """`weights`: alike by their weights; `activations`: by what the next layer reads of them."""
    merge: bool = True
    """What reads a removed unit reads its nearest survivor instead."""
    protect: tuple[str, ...] = ()
    """Layers, by name or glob, that keep the units they make."""
    structures: tuple[str, ...] = ()
    """What may be removed, as `prune.channels` has it; by default channels and neurons."""
    samples: Annotated[int, Range(1, 1_000_000)] = 512
    """Training samples for of=activations."""
    form: str = "auto"
    """`module`, `graph` or `auto`, as `prune.channels` has it."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm; 0 leaves the statistics as they were."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.similarity is None and self.ratio is None:
            object.__setattr__(self, "ratio", 0.5)
        for name in self.structures:
            if name not in STRUCTURES:
                raise RecipeError(
                    f"prune.neighbours: structures: '{name}' is none of {', '.join(STRUCTURES)}."
                    f"{nearest(name, STRUCTURES)}"
                )
        check_form(self.form)
        Walk(**{field.name: getattr(self, field.name) for field in fields(Walk)})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Compare, remove, merge, and recalibrate batch norm."""
        how = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "recalibrate"}
        data = task.data("train") if self.of == "activations" else None
        how |= {"data": data, "seed": context.seed, "whole": context.whole}
        pruned = neighbours(model.to(context.device), task.inputs(), **how)
        hand_over(pruned.model, task, context, recalibrate=self.recalibrate)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": pruned.widths})
        trees = [{"group": name, "removed": [asdict(branch) for branch in tree]} for name, tree in pruned.trees]
        for tree in trees:
            context.emit("tree", tree)
        details = {"before": pruned.before, "after": pruned.after, "widths": pruned.widths, "trees": trees}
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)
