"""Activations that cost least as a line go, and the layers that are then linear neighbours become one.

Each activation is replaced by its least-squares line on data (`lines`), and the one without which the loss is
least goes first; then all are measured again without it, until as many are gone as asked. The line is folded into
the layer before it, and two layers with nothing else between them into one where that is exact (`compose`), so
that the network is shallower. Zero padding between convolutions most often forbids the second: those stay two,
with a note. Each round takes a pass over the data for every activation that is left.

Source: Dror et al., "Layer Folding: Neural Network Depth Reduction using Activation Linearization", 2021,
arXiv:2106.09309, which learns which activations go; here they are measured. Fu et al., "DepthShrinker", ICML 2022,
arXiv:2206.00843.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import torch
from torch import nn

from paretune._replaced import Line
from paretune.cuts import Cuts, Removed, Replaced, fold_parametrizations, parametrized, replay
from paretune.data import Batch, call, map_tensors
from paretune.errors import InfeasibleError, InputError, SurgeryError, check_whole, is_number, names_of, nearest
from paretune.measure import macs as count_macs
from paretune.measure import parameters
from paretune.prune._activations.compose import is_norm, layer_of, normed
from paretune.prune._activations.flow import ACTIVATIONS, Flow, flow_of
from paretune.prune._activations.fold import EXACT, FOLDS, ROUGHLY, Folder
from paretune.prune._activations.judge import Judge, Loss, difference, judge_of, outputs_of
from paretune.prune._activations.lines import Sums
from paretune.prune._capture.capture import evaluating, on_device_of, try_forward
from paretune.prune._capture.given import copied, given, require_values
from paretune.prune._cut import Pruned
from paretune.prune._depth.blocks import calibration, drawn, passes
from paretune.prune._hand_over import hand_over, rows_of
from paretune.prune._selection.selection import is_within
from paretune.recipe import Context, Range, Step, StepResult, check_ranges
from paretune.task import Task

if TYPE_CHECKING:
    from torch import Tensor

Rows = tuple[tuple[str, str, str], ...]
_CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm),
)


@dataclass(frozen=True)
class Linearised(Pruned):
    """A copy of a model without some of its activations."""

    loss: float = 0.0
    """Of the model as given: the mean loss, or 0 where the error of the outputs was measured."""
    alone: dict[str, float] = field(default_factory=dict)
    """Activation -> what the loss, or the error, is with it alone a line."""
    removed: tuple[tuple[str, float], ...] = ()
    """(activation, the loss or the error once it was gone too), in the order in which they went."""
    folds: tuple[tuple[str, ...], ...] = ()
    """Layers that are one now, in the order in which they ran; the first name is that of the merged layer."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which activations go, and what is folded."""

    count: int | None = None
    max_loss: float | None = None
    protect: Iterable[str] = ()
    fold: str = "auto"
    exact_border: bool = False

    def __post_init__(self) -> None:
        where = "prune.activations"
        if (self.count is None) == (self.max_loss is None):
            given = "none" if self.count is None else "both"
            raise InputError(f"{where}: give exactly one of count and max_loss; got {given}")
        check_whole(f"{where}: count", self.count)
        if self.max_loss is not None and not (is_number(self.max_loss) and self.max_loss >= 0):
            raise InputError(
                f"{where}: max_loss={self.max_loss!r} must be a number of at least 0: the mean loss on the data, "
                "or the relative squared error of the outputs, that holds"
            )
        if self.fold not in FOLDS:
            raise InputError(
                f"{where}: fold={self.fold!r} must be one of {', '.join(FOLDS)}.{nearest(str(self.fold), FOLDS)}"
            )
        object.__setattr__(self, "protect", tuple(names_of(f"{where}: protect", self.protect)))


def activations(
    model: nn.Module,
    example: Any,
    *,
    data: Any,
    loss: str | Loss | None = None,
    count: int | None = None,
    max_loss: float | None = None,
    fold: str = "auto",
    exact_border: bool = False,
    protect: Iterable[str] = (),
    samples: int | None = None,
    seed: int = 0,
) -> Linearised:
    """Replace activations of a copy of a model by lines, and fold what is linear then; the model is not changed.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
    data: calibration data, as a Task takes them; all of them are used, or so many samples, drawn by the seed.
    loss: as a Task takes it, for data with targets; without, the squared error of the outputs over their squared
        size takes its place.
    Give exactly one of
        count: so many activations go, the cheapest first, measured again after each;
        max_loss: activations go as long as the loss, or the error, is at most this.
    fold: "auto" merges two layers where that takes no more multiply-accumulates, "always" wherever it is exact.
    exact_border: the line of an activation between a 1x1 convolution and one padded with zeros is zero where the
        first reads zeros. It fits worse, and the two can be one layer.
    protect: activations, or modules with all that is in them, by name or glob, that stay.

    An activation that is a module and is called once can go; functions in code (`F.relu`) and modules that are
    called several times are in `unprunable`. What is merged holds its weights in the state dict: after
    `prune.replay` on a fresh model, load it.
    """
    check_whole("prune.activations: samples", samples)
    check_whole("prune.activations: seed", seed, least=0)
    wanted = Wanted(count=count, max_loss=max_loss, fold=fold, exact_border=exact_border, protect=protect)
    criterion = None if loss is None else Task(model=model, loss=loss).criterion()
    return _linearised(model, example, wanted, drawn(calibration(data, samples, seed)), criterion)


def _linearised(
    model: nn.Module, example: Any, wanted: Wanted, batches: Sequence[Batch], loss: Loss | None
) -> Linearised:
    model = given(model)
    require_values(model)
    example = on_device_of(model, example)
    batches = [(on_device_of(model, inputs), on_device_of(model, target)) for inputs, target in batches]
    folded = parametrized(model)
    trial = fold_parametrizations(copied(model), folded)
    shapes = {name: tuple(tensor.shape) for name, tensor in trial.state_dict(keep_vars=True).items()}
    with evaluating(trial):
        for inputs in (example, batches[0][0]):
            try_forward(trial, inputs)
        out_of_place("prune.activations", trial, example)
        flow = flow_of(trial, example)
        able, unprunable = activations_of(trial, flow)
        pool = unprotected("prune.activations", able, wanted.protect, unprunable)
        if wanted.count is not None and wanted.count > len(pool):
            raise InputError(
                f"prune.activations: count={wanted.count}, and only {len(pool)} activations can go: "
                f"{', '.join(pool)}"
            )
        judge = judge_of(trial, batches, loss)
        first = judge(trial)
        gone, alone = _greedy(trial, flow, pool, wanted, batches, judge)
        before = {"macs": count_macs(trial, example), "params": parameters(model)}
    folder, notes = _folded(trial, example, batches[0][0], list(gone), wanted)
    cuts = _manifest(shapes, folder, folded)
    pruned = replay(copied(model), cuts)
    pruned.load_state_dict(folder.model.state_dict())
    if not gone:
        notes = (
            *notes,
            f"no activation was removed: the cheapest leaves {min(alone.values()):.4g}, above max_loss",
        )
    if folded:
        notes = (*notes, f"the parametrizations of {', '.join(folded)} were folded into the weights")
    with evaluating(pruned):
        after = {"macs": count_macs(pruned, example), "params": parameters(pruned)}
    return Linearised(
        model=pruned,
        cuts=cuts,
        unprunable=unprunable,
        before=before,
        after=after,
        widths={},
        notes=notes,
        loss=first,
        alone=alone,
        removed=tuple(gone.items()),
        folds=tuple(folder.folds),
    )


def out_of_place(where: str, model: nn.Module, example: Any) -> None:
    """Let activations give a new tensor, in place: what reads what can be seen only then."""
    before = outputs_of(model, example)
    for module in model.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            setattr(module, "inplace", False)  # noqa: B010  # what mypy knows of modules has no such field
    if difference(before, outputs_of(model, example)) > 0:
        raise SurgeryError(
            f"{where}: the model computes something else when its activations do not write in place: its code "
            "reads what went into one after it ran. Make them with inplace=False"
        )


def activations_of(model: nn.Module, flow: Flow) -> tuple[list[str], Rows]:
    """Return the activation modules that run once, in order, and (name, reason, remedy) of the others."""
    rows: list[tuple[str, str, str]] = []
    fused = [
        f"{name}.activation"
        for name, module in model.named_modules()
        if isinstance(module, nn.TransformerEncoderLayer)
    ]
    for name in fused:
        if name in flow.calls:
            reason = "PyTorch's fused path of this layer computes it without calling the module"
            rows.append((name, reason, "a layer of your own that calls it"))
    twice = _under_two_names(model)
    for name, other in twice.items():
        if isinstance(model.get_submodule(name), ACTIVATIONS) and name in flow.calls:
            rows.append((name, f"it is {other} too", "a module of its own for each name"))
    for name, module in model.named_modules():
        times = flow.times[name]
        if not isinstance(module, ACTIVATIONS) or name in flow.calls:
            continue
        reason = "it never runs on the example" if not times else f"it is called {times} times"
        remedy = "an example with which it runs" if not times else "a module of its own for each call"
        rows.append((name, reason, remedy))
    for where, function in dict.fromkeys(flow.functions):
        remedy = f"a module, made in __init__: self.{function} = nn.ReLU(), or the like"
        rows.append((f"{where}.{function}()".lstrip("."), "it is a function in the code of forward", remedy))
    able = [name for name in flow.calls if name and isinstance(model.get_submodule(name), ACTIVATIONS)]
    return [name for name in able if name not in fused and name not in twice], tuple(rows)


def _under_two_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of every module that is registered under several, and another of them."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return {first: others[0] for first, *others in names.values() if others}


def unprotected(where: str, able: Sequence[str], protect: Iterable[str], unprunable: Rows) -> list[str]:
    """Return the activations that may go; none is an InfeasibleError, a name that matches none an InputError."""
    if not able:
        reasons = [f"  {name}: {reason}; what would help: {remedy}" for name, reason, remedy in unprunable]
        raise InfeasibleError(
            f"{where}: this model has no activation module that runs once:\n"
            + "\n".join(reasons or ["  it has no activations at all"])
        )
    for pattern in protect:
        if not any(is_within(name, pattern) for name in able):
            raise InputError(
                f"{where}: protect: '{pattern}' matches no activation.{nearest(pattern, able)} They are "
                f"{', '.join(able)}"
            )
    pool = [name for name in able if not any(is_within(name, pattern) for pattern in protect)]
    if not pool:
        raise InfeasibleError(f"{where}: all activations are protected: {', '.join(able)}")
    return pool


def _greedy(
    model: nn.Module, flow: Flow, pool: Sequence[str], wanted: Wanted, batches: Sequence[Batch], judge: Judge
) -> tuple[dict[str, float], dict[str, float]]:
    """Put lines into the model, the cheapest first, as many as wanted; return the loss after each, and alone."""
    left = list(pool)
    gone: dict[str, float] = {}
    alone: dict[str, float] = {}
    most = len(pool) if wanted.count is None else wanted.count
    while left and len(gone) < most:
        lines = _lines(model, flow, left, batches, _zeros(model, flow, left) if wanted.exact_border else {})
        losses = {}
        for name in left:
            with _standing(model, name, lines[name]):
                losses[name] = judge(model)
        alone = alone or losses
        best = min(left, key=lambda name: losses[name])
        if wanted.max_loss is not None and not losses[best] <= wanted.max_loss:
            break
        if math.isinf(losses[best]):
            raise InfeasibleError(
                f"prune.activations: whichever activation goes, the loss or the outputs are no longer finite, "
                f"after {len(gone)} of {most}: look for NaN in the data, or ask for fewer"
            )
        put(model, best, lines[best])
        left.remove(best)
        gone[best] = losses[best]
    return gone, alone


def _zeros(model: nn.Module, flow: Flow, names: Iterable[str]) -> dict[str, Tensor]:
    """Return what the 1x1 convolution before an activation gives of zeros, (channels,), where the next pads."""
    found: dict[str, Tensor] = {}
    for name in names:
        norm, before, after = None, flow.before(name), flow.after(name)
        if before is not None and is_norm(model.get_submodule(before)):
            norm, before = model.get_submodule(before), flow.before(before)
        if before is None or after is None:
            continue
        first, second = (layer_of(model.get_submodule(place)) for place in (before, after))
        if first is None or second is None or len(first.kernel) != len(second.kernel):
            continue
        first = first if norm is None else normed(first, norm)
        padded = [axis for axis, padding in enumerate(second.padding) if padding]
        if padded and all(first.kernel[axis] == 1 for axis in padded):
            found[name] = first.bias
    return found


def _lines(
    model: nn.Module, flow: Flow, names: Sequence[str], batches: Sequence[Batch], through: Mapping[str, Tensor]
) -> dict[str, Line]:
    """Return the least-squares line of each activation, as the model is now."""
    sums = {name: _sums(model, flow, name) for name in names}

    def watch(name: str) -> Any:
        return lambda module, args, output: sums[name].add(args[0], output)

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_hook(watch(name)).remove)
        for inputs, _ in batches:
            call(model, inputs)
    like = next(model.parameters(), torch.empty(0))
    return {name: _line(found, like, through.get(name)).train(model.training) for name, found in sums.items()}


def _sums(model: nn.Module, flow: Flow, name: str) -> Sums:
    """Return empty sums; where the axis of the channels is not known, one line stands for all of them."""
    axes = len(flow.calls[name].shape)
    source = flow.source(name)
    maker = None if source is None else model.get_submodule(source)
    if isinstance(maker, _CHANNELS_FIRST):
        return Sums(trailing=axes - 2)
    if isinstance(maker, nn.Linear | nn.LayerNorm) or axes == 2:
        return Sums(trailing=0, single=axes < 2)
    return Sums(trailing=axes - 2, single=True) if axes != 4 else Sums(trailing=2)


def _line(sums: Sums, like: Tensor, through: Tensor | None) -> Line:
    scale, shift = sums.line(through)
    line = Line(len(scale), 0 if sums.single else sums.trailing).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        line.scale.copy_(scale)
        line.shift.copy_(shift)
    return line


@contextmanager
def _standing(model: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    old = model.get_submodule(name)
    put(model, name, module)
    try:
        yield
    finally:
        put(model, name, old)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Let a module stand at this place of a model."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _folded(
    trial: nn.Module, example: Any, inputs: Any, gone: Sequence[str], wanted: Wanted
) -> tuple[Folder, tuple[str, ...]]:
    """Fold on a copy on the CPU, in float64 where the model runs in it."""
    work, given, exact = _in_float64(trial, (example, inputs))
    example, inputs = given
    with torch.no_grad():
        flow = flow_of(work, example)
        for name, zeros in (_zeros(work, flow, gone) if wanted.exact_border else {}).items():
            line = work.get_submodule(name)
            assert isinstance(line, Line)
            line.shift.copy_(
                -line.scale * zeros
            )  # in float64 as well, or what is left of a bias forbids the merge
        folder = Folder(work, flow, inputs, wanted.fold, exact)
        for name in gone:
            line = work.get_submodule(name)
            assert isinstance(line, Line)
            folder.specs[name] = ("line", {"channels": len(line.scale), "trailing": line.trailing})
        folder.take([name for name in flow.calls if name in gone])
    return folder, tuple(folder.notes)


def _in_float64(trial: nn.Module, given: tuple[Any, Any]) -> tuple[nn.Module, tuple[Any, Any], float]:
    """Return a copy in float64 with its inputs, and how exact a fold is there; code that turns its inputs into
    float32 (`pixels.float() / 255`) keeps the type that it has."""
    work = copied(trial).cpu().double().eval()
    doubled = (map_tensors(_in_double, given[0]), map_tensors(_in_double, given[1]))
    try:
        with torch.no_grad():
            call(work, doubled[1])
    except Exception:  # whatever the user's code raises
        work = copied(trial).cpu().eval()
        plain = (map_tensors(torch.Tensor.cpu, given[0]), map_tensors(torch.Tensor.cpu, given[1]))
        return work, plain, ROUGHLY
    return work, doubled, EXACT


def _in_double(tensor: Tensor) -> Tensor:
    return tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu()


def _manifest(shapes: Mapping[str, tuple[int, ...]], folder: Folder, folded: tuple[str, ...]) -> Cuts:
    """Return the manifest, with the shapes of all that goes: it fits no other architecture."""
    places = {*folder.gone, *folder.specs}
    return Cuts(
        shapes={name: shape for name, shape in shapes.items() if name.rpartition(".")[0] in places},
        folded=folded,
        removed=tuple(Removed(name) for name in folder.gone),
        replaced=tuple(Replaced(name, *spec) for name, spec in folder.specs.items()),
    )


@final
@dataclass(frozen=True, kw_only=True)
class Activations(Step):
    """Remove the activations that cost least as a line, and fold the layers that are linear neighbours then.

    The loss is the task's, on training samples; the error of the outputs where they have no targets. Batch norm is
    recalibrated afterwards. Without a target, one activation goes.
    """

    name: ClassVar[str] = "prune.activations"
    uses_data: ClassVar[tuple[str, ...]] = ("train",)

    count: Annotated[int | None, Range(1, 10_000)] = None
    """Activations to remove."""
    max_loss: Annotated[float | None, Range(0.0, math.inf)] = None
    """Remove as long as the loss, or the relative squared error of the outputs, is at most this."""
    fold: str = "auto"
    """`auto` merges layers where that takes no more multiply-accumulates, `always` wherever it is exact."""
    exact_border: bool = False
    """Lines between a 1x1 convolution and a padded one are zero where the first reads zeros: both can be one."""
    protect: tuple[str, ...] = ()
    """Activations that stay, by name or glob."""
    samples: Annotated[int, Range(1, 1_000_000)] = 256
    """Training samples that the loss is measured on."""
    recalibrate: Annotated[int, Range(0, 1_000_000)] = 512
    """Training samples for the recalibration of batch norm; 0 leaves the statistics as they were."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.count is None and self.max_loss is None:
            object.__setattr__(self, "count", 1)
        self._wanted()

    def _wanted(self) -> Wanted:
        return Wanted(**{field.name: getattr(self, field.name) for field in fields(Wanted)})

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Measure, remove, fold, and recalibrate batch norm."""
        from paretune.train import task_loss

        data = task.data("train")
        batches = drawn(passes(data, self.samples, context.seed))
        loss = None if any(target is None for _, target in batches) else task_loss(task)
        pruned = _linearised(model.to(context.device), task.inputs(), self._wanted(), batches, loss)
        hand_over(pruned.model, task, context, recalibrate=self.recalibrate)
        removed = [name for name, _ in pruned.removed]
        context.emit("pruned", {"before": pruned.before, "after": pruned.after, "widths": {}, "removed": removed})
        details = {
            "before": pruned.before,
            "after": pruned.after,
            "removed": removed,
            "loss": pruned.loss,
            "losses": dict(pruned.removed),
            "alone": pruned.alone,
            "folds": [list(names) for names in pruned.folds],
            "unprunable": rows_of(pruned.unprunable),
        }
        return StepResult(pruned.model, (pruned.cuts,), pruned.notes, details)
