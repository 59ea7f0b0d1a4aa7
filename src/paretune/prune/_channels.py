"""Channel pruning: whole channels of coupled layers go, and the tensors become smaller.

Groups come from the captured graph (`_couplings`), scores from `prune.scores`, the choice from `_selection`, the
cut from `_surgery`, and what is handed over from `_deliver`: the user's own class, or the rewritten graph, each
compared with the uncut model in which the same channels are masked. What was done is in its `Cuts`.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710; groups: Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from torch import nn

from paretune.errors import InputError, RecipeError, nearest
from paretune.prune._analysis import Analysis, analyze, only
from paretune.prune._couplings.groups import STRUCTURES
from paretune.prune._cut import FORMS, Pruned, Selection, check_form, predict
from paretune.prune._evidence.batches import batches_of
from paretune.prune._evidence.evidence import NEED_DATA, needs
from paretune.prune._hand_over import hand_over, rows_of
from paretune.prune._probe import cut_what_can_be, followed
from paretune.prune._repair.repair import SAMPLES, repair
from paretune.prune._selection.budget import BUDGETS, Amount, target_amount
from paretune.prune._selection.selection import (
    COMBINE,
    SCOPES,
    select,
)
from paretune.prune._selection.spec import ScoreSpec, resolve_score
from paretune.recipe import Context, Range, Step, StepResult, check_ranges
from paretune.target import Target

if TYPE_CHECKING:
    from paretune.task import Task


def channels(
    model: nn.Module,
    example: Any,
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    size: float | str | None = None,
    latency: float | str | None = None,
    widths: Mapping[str, int] | None = None,
    score: ScoreSpec | Callable[..., Any] | None = None,
    scope: str = "global",
    multiple: int = 1,
    protect: Iterable[str] = (),
    combine: str = "mean",
    data: Any = None,
    loss: Any = None,
    samples: int | None = None,
    seed: int = 0,
    target: Target | None = None,
    structures: Iterable[str] = (),
    form: str = "auto",
    repair: bool | None = None,
) -> Pruned:
    """Remove channels from a copy of a model; the model that is given is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
    The choice is that of `select`, which says what every argument is; `data` and `loss` are for scores that need
    them. A target that cannot be met, and a model with nothing to prune, are an InfeasibleError before anything is
    cut.
    structures: what may be removed: some of `prune.STRUCTURES`, everything where none is named.
    form: "module" gives the model's own class, with only what its code follows removed; "graph" the captured
        graph, rewritten; "auto" the own class where its code follows the whole cut, else the graph, and a note.
    repair: whether kept weights make up for what went, in closed form on `samples` of `data`, 512 where none are
        named (`prune.repair`); where there are data it is done unless this is False.
    """
    if repair not in (None, True, False):
        raise InputError(
            f"prune.channels: repair={repair!r} must be True, False or None; on how many samples is samples="
        )
    if repair and data is None:
        raise InputError(
            "prune.channels: repair=True needs calibration inputs: pass data=..., labels are not used"
        )
    data = batches_of(data)
    analysis = only(analyze(model, example), structures)
    if check_form(form) == "module":
        analysis = followed(analysis)
    choose = partial(
        select,
        ratio=ratio,
        threshold=threshold,
        macs=macs,
        params=params,
        size=size,
        latency=latency,
        widths=widths,
        score=score,
        scope=scope,
        multiple=multiple,
        protect=protect,
        combine=combine,
        data=data,
        loss=loss,
        samples=samples,
        seed=seed,
        target=target,
    )
    analysis, selection, pruned = cut_what_can_be(analysis, choose, form)
    if repair or (repair is None and data is not None):
        pruned = repaired(analysis, selection, pruned, data, samples=samples, seed=seed)
    return pruned


def repaired(
    analysis: Analysis, selection: Selection, pruned: Pruned, data: Any, *, samples: int | None, seed: int
) -> Pruned:
    """Repair a pruned model in place (`prune.repair`) and return it with what was done in its notes."""
    count = SAMPLES if samples is None else samples  # a whole training set would take hours and give no more
    done = repair(analysis, selection, pruned, data, samples=count, seed=seed)
    note = f"{len(done.layers)} layers were repaired in closed form on {done.samples} samples"
    left = tuple(f"{layer} was not repaired: {why}" for layer, why in done.left)
    return replace(pruned, notes=(*pruned.notes, *((note,) if done.layers else ()), *left))


@final
@dataclass(frozen=True, kw_only=True)
class Channels(Step):
    """Remove whole channels: a ratio of them, down to given widths, or to a budget of MACs, size or time.

    After the cut the weights that read removed channels are repaired on training samples, or batch norm is
    recalibrated where repair=0. Without a target, half of the channels go.
    """

    name: ClassVar[str] = "prune.channels"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)
    of_whole: ClassVar[bool] = True

    score: str | dict[str, dict[str, Any] | None] | None = None
    """A name that `paretune methods scores` lists, or with options `{taylor: {of: output}}`; by default
    geometric_median."""
    ratio: Annotated[float | None, Range(0.0, 1.0, high_open=True)] = None
    """Fraction of the channels to remove."""
    threshold: float | None = None
    """Channels whose score is above it stay, the others go."""
    macs: Amount = None
    """Multiply-accumulates to keep: a fraction of the incoming model's, or an amount like 20e6 or "20M"."""
    params: Amount = None
    """Parameters to keep, likewise: 0.5 or "1M"."""
    size: Amount = None
    """Bytes of parameters and buffers to keep, as they are before any quantization: 0.5 or "200KB"."""
    latency: Amount = None
    """Time to keep, timed on the target in float: "0.5x" of the incoming model's, or "2ms"."""
    widths: dict[str, int] | None = None
    """Channels that layers keep, by name or glob: {"layer1.*.conv1": 16}."""
    scope: str = "global"
    """`global`: the least important of all layers go; `isomorphic`: of every kind; `local`: of every group."""
    multiple: Annotated[int, Range(1, 1024)] = 1
    """Widths after the cut are multiples of this: 16 suits the CPU's kernels."""
    protect: tuple[str, ...] = ()
    """Layers, by name or glob, that keep the channels they make."""
    combine: str = "mean"
    """How scores of coupled layers become one: mean, sum, max, first."""
    samples: Annotated[int, Range(1, 1_000_000)] = 512
    """Training samples for scores that need data."""
    structures: tuple[str, ...] = ()
    """What may be removed: channels, neurons, heads, query_key, value, embedding, hidden, experts; else all."""
    form: str = "auto"
    """`module`: the model's own class or nothing; `graph`: the rewritten graph; `auto`: the first that works."""
    repair: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples on which kept weights are made to make up for what went, in closed form; 0 leaves them."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm, where nothing is repaired; 0 leaves the statistics."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.score is not None:
            resolve_score(self.score)
        targets = [t for t in ("ratio", "threshold", "widths", *BUDGETS) if getattr(self, t) is not None]
        if len(targets) > 1:
            raise RecipeError(
                f"prune.channels: give one of ratio, threshold, widths, {', '.join(BUDGETS)}, not "
                f"{' and '.join(targets)}"
            )
        if not targets:
            object.__setattr__(self, "ratio", 0.5)
        for field, allowed in (("scope", SCOPES), ("combine", COMBINE), ("form", FORMS)):
            if getattr(self, field) not in allowed:
                raise RecipeError(
                    f"prune.channels: {field}='{getattr(self, field)}' must be one of {', '.join(allowed)}"
                )
        for name in self.structures:
            if name not in STRUCTURES:
                raise RecipeError(
                    f"prune.channels: structures: '{name}' is none of {', '.join(STRUCTURES)}."
                    f"{nearest(name, STRUCTURES)}"
                )
        if self.threshold is not None and self.threshold != self.threshold:
            raise RecipeError(
                "prune.channels: threshold=nan must be a number: channels whose score is above it stay"
            )
        for name in BUDGETS:
            if getattr(self, name) is not None:
                try:
                    target_amount(name, getattr(self, name), 1)
                except InputError as error:
                    raise RecipeError(str(error)) from error

    def analyze(self, model: nn.Module, task: Task) -> Analysis:
        """Return what this step may prune of a model."""
        analysis = only(analyze(model, task.inputs()), self.structures)
        return followed(analysis) if self.form == "module" else analysis

    @property
    def uses_target(self) -> bool:
        """Whether the result depends on what the target takes for it."""
        return self.latency is not None

    def select(self, analysis: Analysis, task: Task | None = None, context: Context | None = None) -> Selection:
        """Return what this step removes from an analysed model; the task has the data that some scores need."""
        context = context or Context()
        seeing = task is not None and self._sees
        return select(
            analysis,
            ratio=self.ratio,
            threshold=self.threshold,
            macs=self.macs,
            params=self.params,
            size=self.size,
            latency=self.latency,
            widths=self.widths,
            score=self.score,
            scope=self.scope,
            multiple=self.multiple,
            protect=self.protect,
            combine=self.combine,
            data=task.data("train") if task is not None and seeing else None,
            loss=task.loss if task is not None and seeing else None,
            samples=self.samples,
            seed=context.seed,
            target=context.target,
            whole=context.whole,
        )

    @property
    def _sees(self) -> bool:
        """Whether the score is taken of data: one that asks for them."""
        return self.score is not None and any(name in NEED_DATA for name in needs(resolve_score(self.score)))

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Analyse, select, cut, and repair what is left, or recalibrate batch norm."""
        analysis = self.analyze(model.to(context.device) if self._sees or self.repair else model, task)
        choose = partial(self.select, task=task, context=context)
        analysis, selection, pruned = cut_what_can_be(analysis, choose, self.form)
        prediction = predict(analysis, selection)
        if self.repair:
            pruned = repaired(
                analysis, selection, pruned, task.data("train"), samples=self.repair, seed=context.seed
            )
        hand_over(pruned.model, task, context, recalibrate=0 if self.repair else self.recalibrate)
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": pruned.widths})
        details = {
            "before": pruned.before,
            "after": pruned.after,
            "widths": pruned.widths,
            "layers": prediction.layers,
            "unprunable": rows_of(pruned.unprunable),
        }
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)
