"""Depth pruning: whole residual blocks go, and their input passes on in their place.

Blocks are found by running the model (`residual`) and ordered by a score (`block_scores`). What stands in a
removed block's place has no weights (`paretune._skip`); all other modules, and the names of their weights, stay as
they were. Deep networks lose little by a few blocks, and every runtime gains: what is left keeps its width.

Source: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
arXiv:2403.03853.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from typing import Annotated, Any, ClassVar, final

import torch
from torch import nn

from paretune._skip import Skip
from paretune.cuts import Attribute, Cuts, replay
from paretune.data import Batch, Data, kept_random_state, split_batch
from paretune.errors import (
    InfeasibleError,
    InputError,
    RecipeError,
    SurgeryError,
    check_whole,
    is_number,
    names_of,
    nearest,
)
from paretune.measure import macs as count_macs
from paretune.measure import parameters
from paretune.prune._capture.capture import evaluating, in_words, on_device_of, try_forward
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._depth.block_scores import Batches, Judge, Loss, Score, judge_of
from paretune.prune._depth.caches import cache_places, outputs_of
from paretune.prune._depth.residual import Block, find_blocks, skipped
from paretune.prune._depth.timed import BlockTimes, until_fast
from paretune.prune._hand_over import hand_over, rows_of
from paretune.prune._selection.budget import Amount, target_amount
from paretune.prune._selection.earlier import still_to_go
from paretune.prune._selection.selection import is_within
from paretune.prune._stopwatch import Stopwatch
from paretune.recipe import Context, Range, Step, StepResult, check_ranges
from paretune.target import Target
from paretune.task import Task

TARGETS = ("ratio", "count", "names", "macs", "latency")
Rows = tuple[tuple[str, str, str], ...]


def blocks(
    model: nn.Module,
    example: Any,
    *,
    ratio: float | None = None,
    count: int | None = None,
    names: Iterable[str] | None = None,
    macs: float | str | None = None,
    latency: float | str | None = None,
    score: str | Score | None = None,
    data: Any = None,
    loss: str | Loss | None = None,
    samples: int | None = None,
    seed: int = 0,
    protect: Iterable[str] = (),
    inner: bool = False,
    target: Target | None = None,
) -> Pruned:
    """Remove residual blocks from a copy of a model; the model that is given is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
    Give exactly one of ratio (of the blocks, in [0, 1)), count, names (of blocks, globs allowed), macs
    (multiply-accumulates to keep, as a fraction of the model's in (0, 1], or an amount like "20M") and latency
    (time to keep on `target`, "0.5x" or "2ms": blocks go by what is lost for the time that each saves, measured).
    score: `similarity`, `loss`, or a score of weights like `l1`; where it is None, similarity if there are data
        and l1 if there are none.
    data: calibration data, as a Task takes them; all of them are used, or so many samples, drawn by the seed.
    loss: as a Task takes it, for score="loss".
    protect: names or globs of blocks, or of modules with all that is in them, that stay.
    inner: the innermost residual modules (attention, feed-forward) are the blocks, instead of the outermost.

    At least one block stays. A model without a block that can go, and a target that cannot be met, are an
    InfeasibleError before anything is removed.
    """
    check_whole("prune.blocks: samples", samples)
    check_whole("prune.blocks: seed", seed, least=0)
    choice = Choice(
        ratio=ratio, count=count, names=names, macs=macs, latency=latency, protect=protect, inner=inner
    )
    criterion = None if loss is None else Task(model=model, loss=loss).criterion()
    batches = None if data is None else calibration(data, samples, seed)
    return _prune(model, example, choice, judge_of(score, batches, criterion), target)[0]


def calibration(data: Any, samples: int | None, seed: int) -> Batches:
    """Return what begins a pass over calibration data, given as a Task takes them; a target may be missing."""
    return passes(Data(data, split=_split, name="data"), samples, seed)


def passes(data: Data, samples: int | None, seed: int) -> Batches:
    """Return what begins a pass over the data: over all in their order, or over so many, drawn by the seed."""
    return lambda: data.batches(shuffle=None if samples is None else (seed, 0), limit=samples)


def drawn(begin: Batches) -> list[Batch]:
    """Return the batches of a pass; the random states stay as they were."""
    with kept_random_state():
        return list(begin())


def _split(batch: Any) -> Batch:
    """Split a batch into inputs and target; a dict without a target is all inputs."""
    try:
        return split_batch(batch)
    except KeyError:
        return batch, None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to go: exactly one of TARGETS."""

    ratio: float | None = None
    count: int | None = None
    names: Iterable[str] | None = None
    macs: float | str | None = None
    latency: float | str | None = None
    protect: Iterable[str] = ()
    inner: bool = False
    went: int = 0
    """Blocks that went in earlier rounds, which a ratio counts."""

    def __post_init__(self) -> None:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"prune.blocks: give exactly one of {', '.join(TARGETS)}; got {' and '.join(given) or 'none'}"
            )
        if self.ratio is not None and not (is_number(self.ratio) and 0 <= self.ratio < 1):
            raise InputError(
                f"prune.blocks: ratio={self.ratio!r} must be at least 0 and below 1; it is the fraction that is "
                "removed: ratio=0.25 removes a quarter of the blocks"
            )
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise InputError(f"prune.blocks: count={self.count!r} must be a whole number of at least 0")
        for name in ("macs", "latency"):
            if getattr(self, name) is not None:
                target_amount(name, getattr(self, name), 1, "prune.blocks")
        for field in ("names", "protect"):
            patterns = getattr(self, field)
            if patterns is not None:
                object.__setattr__(self, field, tuple(names_of(f"prune.blocks: {field}", patterns)))


def _prune(
    model: nn.Module, example: Any, choice: Choice, judge: Judge, target: Target | None
) -> tuple[Pruned, dict[str, float]]:
    """Return a pruned copy, and the scores of the blocks that went."""
    model = given(model)
    require_values(model)
    example = on_device_of(model, example)
    trial = copied(model)
    trial.requires_grad_(False)  # for the counter of MACs, which hooks gradients of parameters that are inputs
    with evaluating(trial):
        try_forward(trial, example)
        residual = find_blocks(trial, example)
        expected = outputs_of(trial, example)
        able, failing = _able(trial, example, expected, residual.blocks)
        unprunable = (*failing, *residual.unprunable)
        watch = partial(_watch, model, example, target or Target())
        gone, scores, notes = _choose(trial, residual.macs, able, unprunable, choice, judge, watch)
        with skipped(trial, gone):
            attributes, more = cache_places(trial, example, gone)
            left = count_macs(trial, example)
    cuts = _manifest(model, gone, attributes)
    pruned = replay(copied(model), cuts)
    with evaluating(pruned):
        problem = _problem(expected, pruned, example)
    if problem:
        raise SurgeryError(f"prune.blocks: the model does not run without {_list(gone)}: {problem}")
    result = Pruned(
        model=pruned,
        cuts=cuts,
        unprunable=unprunable,
        before={"macs": residual.macs, "params": parameters(model)},
        after={"macs": left, "params": parameters(pruned)},
        widths={},
        notes=(*notes, *more),
    )
    return result, scores


def _watch(model: nn.Module, example: Any, target: Target) -> BlockTimes:
    def without(gone: Sequence[Block]) -> nn.Module:
        return replay(copied(model), _manifest(model, gone, ()))

    return BlockTimes(Stopwatch(model, example, target), without)


def _manifest(model: nn.Module, gone: Sequence[Block], attributes: tuple[Attribute, ...]) -> Cuts:
    """Return the manifest; the shapes of all that goes are in it, so that it fits no other architecture."""
    shapes = {
        f"{block.name}.{name}": tuple(tensor.shape)
        for block in gone
        for name, tensor in model.get_submodule(block.name).state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }
    return Cuts(shapes=shapes, removed=tuple(block.removed for block in gone), attributes=attributes)


def _list(blocks: Iterable[Block]) -> str:
    return ", ".join(block.name for block in blocks)


def _able(
    model: nn.Module, example: Any, expected: list[torch.Tensor], found: Sequence[Block]
) -> tuple[list[Block], Rows]:
    """Return the blocks without which the model runs, and the others with what goes wrong."""
    rows: list[tuple[str, str, str]] = []
    rest = list(found)
    while rest:  # the outermost together, then what is inside them
        level = _apart(rest)
        rows += _failing(model, example, expected, level)
        rest = [block for block in rest if block not in level]
    names = {name for name, _, _ in rows}
    return [block for block in found if block.name not in names], tuple(rows)


def _failing(
    model: nn.Module, example: Any, expected: list[torch.Tensor], pool: list[Block]
) -> list[tuple[str, str, str]]:
    """Skip all at once; where that fails, halve until the culprits are found."""
    with skipped(model, pool):
        problem = _problem(expected, model, example)
    if problem is None:
        return []
    if len(pool) == 1:
        remedy = "code around it that takes its output and nothing else of it"
        return [(pool[0].name, f"the model does not run without it: {problem}", remedy)]
    half = len(pool) // 2
    return [row for part in (pool[:half], pool[half:]) for row in _failing(model, example, expected, part)]


def _problem(expected: list[torch.Tensor], model: nn.Module, example: Any) -> str | None:
    """Return in words why a model does not run, or how the shapes of its outputs are not those expected."""
    try:
        found = outputs_of(model, example)
    except Exception as error:  # whatever the user's code raises
        return in_words(error)
    shapes = [[tuple(tensor.shape) for tensor in outputs] for outputs in (expected, found)]
    return None if shapes[0] == shapes[1] else f"its outputs change from {shapes[0]} to {shapes[1]}"


def _choose(
    model: nn.Module,
    full: int,
    able: Sequence[Block],
    unprunable: Rows,
    choice: Choice,
    judge: Judge,
    watch: Callable[[], BlockTimes],
) -> tuple[list[Block], dict[str, float], tuple[str, ...]]:
    """Return the blocks that go, in the order in which they run, their scores, and notes."""
    level = [block for block in able if (block.inner if choice.inner else block.outer)]
    if not level:
        raise InfeasibleError(_none(unprunable))
    pool = _unprotected(able if choice.names is not None else level, choice.protect)
    if choice.names is not None:
        pool = _apart(_named(pool, choice.names, able, unprunable))
    asked = _asked(choice, pool)
    most = len(pool) - (pool == level)  # one of all stays
    if choice.names is not None and asked <= most:
        return pool, {}, ()
    notes: list[str] = []
    if choice.macs is not None:
        gone = _until(model, full, pool, most, choice.macs, judge)
    elif choice.latency is not None:
        gone, told = until_fast(model, pool, most, choice.latency, judge, watch())
        notes.append(told)
    else:
        with closing(judge(model, pool, None)) as order:
            gone = dict(islice(order, min(asked, most)))
    if asked > most and choice.macs is None and choice.latency is None:
        (stays,) = [block.name for block in pool if block not in gone]
        notes.append(f"{stays} stays: a model keeps at least one of its {len(level)} blocks")
    if not gone and choice.ratio:
        notes.append(f"nothing was removed: ratio={choice.ratio} of {len(pool)} blocks is none")
    return [block for block in pool if block in gone], {b.name: gone[b] for b in gone}, tuple(notes)


def _none(unprunable: Rows) -> str:
    reasons = [f"  {name}: {reason}; what would help: {remedy}" for name, reason, remedy in unprunable]
    return "prune.blocks: no block of this model can be removed:\n" + "\n".join(
        reasons or ["  none of its modules hands its input on with something added to it"]
    )


def _unprotected(pool: Sequence[Block], protect: Iterable[str]) -> list[Block]:
    """Return the blocks that are not protected; a name that matches none is an InputError."""
    for pattern in protect:
        if not any(is_within(block.name, pattern) for block in pool):
            raise InputError(
                f"prune.blocks: protect: '{pattern}' matches no block.{nearest(pattern, [b.name for b in pool])} "
                f"The blocks are {_list(pool)}"
            )
    return [block for block in pool if not any(is_within(block.name, pattern) for pattern in protect)]


def _named(pool: Sequence[Block], names: Iterable[str], able: Sequence[Block], unprunable: Rows) -> list[Block]:
    """Return the blocks of these names; one that matches none is an InputError that says why."""
    for pattern in names:
        if any(fnmatchcase(block.name, pattern) for block in pool):
            continue
        refused = [
            f"'{name}' cannot be removed: {why}" for name, why, _ in unprunable if fnmatchcase(name, pattern)
        ]
        refused += [f"'{block.name}' is protected" for block in able if fnmatchcase(block.name, pattern)]
        if refused:
            raise InputError(f"prune.blocks: names: {refused[0]}")
        raise InputError(
            f"prune.blocks: names: '{pattern}' matches no block.{nearest(pattern, [b.name for b in pool])} Names "
            "are those of model.named_modules(), globs are allowed. The blocks are "
            f"{_list(block for block in pool if block.outer)}"
        )
    return [block for block in pool if any(fnmatchcase(block.name, pattern) for pattern in names)]


def _apart(pool: Sequence[Block]) -> list[Block]:
    """Leave out blocks that are inside another."""
    return [b for b in pool if not any(b.name.startswith(other.name + ".") for other in pool)]


def _asked(choice: Choice, pool: Sequence[Block]) -> int:
    """Return how many blocks are to go: all of them where a target of MACs or time decides."""
    if choice.count is not None and choice.count > len(pool):
        which = f": {_list(pool)}" if pool else ", the others are protected"
        raise InputError(f"prune.blocks: count={choice.count}, and only {len(pool)} blocks can go{which}")
    if choice.ratio is not None:
        return still_to_go(choice.ratio, len(pool), choice.went)
    return len(pool) if choice.count is None else choice.count


def _until(
    model: nn.Module, full: int, pool: Sequence[Block], most: int, macs: float | str, judge: Judge
) -> dict[Block, float]:
    """Return what goes so that the target holds, at most so many and no more than it takes."""
    target = target_amount("macs", macs, full, "prune.blocks")
    least = full - sum(sorted((block.macs for block in pool), reverse=True)[:most])
    if least > target:
        raise InfeasibleError(
            f"prune.blocks: macs={macs} is {target:.0f} multiply-accumulates, and without {most} of its "
            f"{len(pool)} blocks the model has {least} of its {full} left. Nothing was removed. Keep more, "
            "protect fewer blocks, or prune channels too"
        )
    gone: dict[Block, float] = {}
    left = full
    with closing(judge(model, pool, None)) as order:
        while left > target:
            block, score = next(order)
            gone[block], left = score, left - block.macs
    for block in reversed(list(gone)):  # a costly block may have made others needless
        if left + block.macs <= target:
            left += block.macs
            del gone[block]
    return gone


def _skipped(model: nn.Module) -> int:
    """Return how many blocks went of a model."""
    return sum(isinstance(module, Skip) for module in model.modules())


@final
@dataclass(frozen=True, kw_only=True)
class Blocks(Step):
    """Remove whole residual blocks: a ratio or a number of them, by name, or until a target of MACs or time.

    Batch-norm statistics are recalibrated on training samples afterwards. Without a target, a quarter of the
    blocks go.
    """

    name: ClassVar[str] = "prune.blocks"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)
    of_whole: ClassVar[bool] = True

    score: str = "similarity"
    """similarity, loss (a pass over the samples for every block, at each removal), or a score of weights."""
    ratio: Annotated[float | None, Range(0.0, 1.0, high_open=True)] = None
    """Fraction of the blocks to remove."""
    count: Annotated[int | None, Range(0, 10_000)] = None
    """Blocks to remove."""
    macs: Amount = None
    """Multiply-accumulates to keep: a fraction of the incoming model's, or an amount like 20e6 or "20M"."""
    latency: Amount = None
    """Time to keep, measured on the target in float: "0.5x" of the incoming model's, or "2ms"."""
    names: tuple[str, ...] | None = None
    """Blocks to remove, by name or glob."""
    protect: tuple[str, ...] = ()
    """Blocks that stay, by name or glob."""
    inner: bool = False
    """The innermost residual modules (attention, feed-forward) are the blocks, instead of the outermost."""
    samples: Annotated[int, Range(1, 1_000_000)] = 256
    """Training samples that blocks are scored on."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm; 0 leaves the statistics as they were."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if all(getattr(self, target) is None for target in TARGETS):
            object.__setattr__(self, "ratio", 0.25)
        try:
            self._choice()
        except InputError as error:
            raise RecipeError(str(error)) from error
        judge_of(self.score, lambda: iter(()), lambda output, target: output)

    @property
    def uses_target(self) -> bool:
        """Whether the result depends on what the target takes for it."""
        return self.latency is not None

    def _choice(self) -> Choice:
        own = {field.name for field in fields(self)}
        return Choice(**{field.name: getattr(self, field.name) for field in fields(Choice) if field.name in own})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Find the blocks, order them, remove some, and recalibrate batch norm."""
        from paretune.train import task_loss

        data = task.data("train")
        judge = judge_of(self.score, passes(data, self.samples, context.seed), task_loss(task))
        choice = replace(self._choice(), went=_skipped(model) - _skipped(context.whole or model))
        pruned, scores = _prune(model.to(context.device), task.inputs(), choice, judge, context.target)
        hand_over(pruned.model, task, context, recalibrate=self.recalibrate)
        removed = [gone.module for gone in pruned.cuts.removed]
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}, "removed": removed})
        details = {
            "before": pruned.before,
            "after": pruned.after,
            "removed": removed,
            "scores": scores,
            "unprunable": rows_of(pruned.unprunable),
        }
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)
