"""Check a recipe without training: what it would cut, what cannot be cut and why, and the most it can gain.

Shapes, multiply-accumulates and parameters after a cut are exact, for the cut is made on a copy. Which channels go
depends on the weights: where the recipe trains first, a global ratio may spread over the layers in another way
than on the untrained weights seen here. A step that trains and then cuts is foreseen by a cut of the smallest
weights to the same goal. Nothing is said of latency or accuracy: those are measured, not predicted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paretune.data import kept_random_state
from paretune.errors import InfeasibleError, InputError, SurgeryError
from paretune.recipe import Context, GraphStep, Recipe, Step
from paretune.task import Task, load_task

if TYPE_CHECKING:
    from torch import nn

    from paretune.prune import Channels

FLOAT_BYTES, INT8_BYTES = 4, 1
Row = dict[str, Any]
Shapes = dict[str, list[int] | None]


@kept_random_state()
def check(recipe: Recipe, task: Task | None = None) -> dict[str, Any]:
    """Return what a recipe would do to its task's model, as plain JSON; nothing is trained or written.

    Keys: task, recipe (as resolved), model {macs, params, weight_bytes}, layers (one row each: its output's
    `shape` now and `after` the recipe, null where it is gone; how many of its channels are `prunable`, or the
    `reason` why none is and the `remedy`), groups (what is cut together, and the macs and params that can go with
    it), steps (macs, params and weight_bytes left `after` each; `ceiling`: the least that it could leave; `gains`
    in words; notes; `problem` where it cannot be done, else null), ok (no step has a problem).

    weight_bytes: of the weights alone; a file is larger by its graph, about 10 KB.
    """
    if task is None and recipe.task is None:
        raise InputError("the recipe names no task; write `task: path/to/file.py:make_task` in it")
    task = task or load_task(str(recipe.task))
    task.check()
    model = _fresh(recipe, task)
    start = _costs(model, task, FLOAT_BYTES)
    (rows, groups), steps = _layers(model, task), list[Row]()
    context = Context(seed=recipe.seed, target=recipe.target)
    for step in recipe.steps:
        before = steps[-1]["after"] if steps else start
        if step.name in _CUTS:
            model, entry, shapes = _CUTS[step.name](step, model, task, context)
            rows = _with_shapes(rows, shapes)
        else:
            entry = _unshaped(step, model, task, before)
        steps.append(entry)
    return {
        "task": recipe.task or task.name,
        "recipe": recipe.to_dict(),
        "model": start,
        "layers": rows,
        "groups": groups,
        "steps": steps,
        "ok": all(entry["problem"] is None for entry in steps),
    }


def _fresh(recipe: Recipe, task: Task) -> nn.Module:
    import torch

    torch.manual_seed(recipe.seed)  # the weights that a run would start from
    return task.build().eval()


def _layers(model: nn.Module, task: Task) -> tuple[list[Row], list[Row]]:
    """Return a row for each layer and each group; where a model cannot be captured, every layer says why."""
    from paretune.prune import analyze

    try:
        analysis = analyze(model, task.inputs())
        return [{**row, "after": row["shape"]} for row in analysis.table()], analysis.group_table()
    except SurgeryError as error:
        return [
            {"layer": name, "type": type(module).__name__, "shape": None, "after": None, "makes_channels": True,
             "prunable": 0, "reason": str(error), "remedy": ""}
            for name, module in model.named_modules()
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        ], []  # fmt: skip


def _cut(step: Channels, model: nn.Module, task: Task, context: Context) -> tuple[nn.Module, Row, Shapes]:
    """Return the model after the cut, the step's entry, and the shapes that are left by layer."""
    from paretune.prune import cut, predict

    before = _costs(model, task, FLOAT_BYTES)
    entry = _entry(step, before)
    try:
        analysis = step.analyze(model, task)
        least = {key: round(analysis.ceiling[f"{key}_fraction"] * before[key]) for key in ("macs", "params")}
        entry["ceiling"] = {**least, "weight_bytes": FLOAT_BYTES * least["params"]}
        selection = step.select(analysis, task, context)
        pruned = cut(analysis, selection, form=step.form)
    except (InfeasibleError, InputError) as error:
        return model, entry | _problem(error), {}
    after = _costs(pruned.model, task, FLOAT_BYTES)
    shapes = {row["layer"]: row["after"] for row in predict(analysis, selection).layers}
    return pruned.model, entry | _gains(before, after, pruned.notes), shapes


def _applied(step: Step, model: nn.Module, task: Task, context: Context) -> tuple[nn.Module, Row, Shapes]:
    """Return the same of a step that trains nothing, which is done on a copy; layers that go have no shape
    left."""
    from paretune.prune import analyze

    before = _costs(model, task, FLOAT_BYTES)
    entry = _entry(step, before)
    quick = {name: value for name, value in QUICK.items() if hasattr(step, name)}
    try:
        result = replace(step, **quick).apply(copy.deepcopy(model), task, context)  # type: ignore[type-var]
        left = {row["layer"]: row["shape"] for row in analyze(result.model, task.inputs()).table()}
        shapes: Shapes = {row["layer"]: left.get(row["layer"]) for row in analyze(model, task.inputs()).table()}
    except (InfeasibleError, InputError) as error:
        return model, entry | _problem(error), {}
    after = _costs(result.model, task, FLOAT_BYTES)
    gains = _gains(before, after, result.notes)
    if before == after:
        gains["gains"] = UNSHAPED.get(step.name, NOTHING)
    return result.model, entry | gains | {"ceiling": after}, shapes


QUICK = {"recalibrate": 0, "samples": 64}
"""What a step does less of where it is only foreseen."""
NOTHING = "no MACs and no bytes; at most the accuracy that was lost"
UNSHAPED = {
    "train": "no MACs and no bytes; accuracy",
    "prune.weights": "zeros, which no dense runtime skips: bytes once the file is packed",
    "prune.gradual": "zeros, which no dense runtime skips: bytes once the file is packed",
    "prune.sparse": "small weights or zeros, which no dense runtime skips: bytes once the file is packed",
    "prune.activation_range": "no MACs and no bytes; a range that is easier to quantize",
}


def _cut_in_the_end(step: Any, model: nn.Module, task: Task, context: Context) -> tuple[nn.Module, Row, Shapes]:
    """Return the same of a step that trains before it cuts: foreseen by a cut of the smallest weights."""
    from paretune.prune import Channels

    goal = {name: getattr(step, name) for name in ("ratio", "macs", "params") if getattr(step, name) is not None}
    cut = Channels(**goal, protect=step.protect, structures=step.structures, form=step.form, score="l1", repair=0)
    made, entry, shapes = _cut(cut, model, task, context)
    if any("what is protected is all" in note for note in entry["notes"]):
        entry |= _problem(InfeasibleError(f"{step.name}: all channels are protected; protect fewer"))
    return made, _named(entry, step), shapes


def _rounds(step: Any, model: nn.Module, task: Task, context: Context) -> tuple[nn.Module, Row, Shapes]:
    """Return the same of rounds of a cut: where all of them end."""
    from paretune.recipe import step_of

    whole = [step_of(step.prune, step.name)] if step.amounts is None else [row[0] for row in step.steps()]
    before = _costs(model, task, FLOAT_BYTES)
    entry: Row = _named(_unshaped(step, model, task, before), step)
    shapes: Shapes = {}
    for each in whole:
        if each.name not in _CUTS:
            return model, _named(_unshaped(each, model, task, before), step), shapes
        model, entry, more = _CUTS[each.name](each, model, task, context)
        shapes |= more
        if entry["problem"] is not None:
            break
    after = entry["after"]
    gains = {} if entry["problem"] is not None or after == before else _gains(before, after, entry["notes"])
    return model, _named(entry | gains, step), shapes


def _named(entry: Row, step: Step) -> Row:
    return entry | {"step": step.name}


_CUTS: dict[str, Callable[..., tuple[nn.Module, Row, Shapes]]] = {
    "prune.channels": _cut,
    **dict.fromkeys(
        ("prune.blocks", "prune.neighbours", "prune.resolution", "prune.activations", "prune.weights"), _applied
    ),
    **dict.fromkeys(("prune.group_lasso", "prune.greg", "prune.learned"), _cut_in_the_end),
    "prune.iterative": _rounds,
}


def _entry(step: Step, before: Mapping[str, Any]) -> Row:
    return {"step": step.name, "after": before, "ceiling": before, "notes": [], "problem": None}


def _problem(error: Exception) -> Row:
    return {"gains": "nothing: it cannot be done", "problem": str(error)}


def _gains(before: Mapping[str, Any], after: Mapping[str, Any], notes: Sequence[str]) -> Row:
    gains = f"{_percent(after, before, 'macs')} of the MACs, {_percent(after, before, 'params')} of the parameters"
    return {"after": after, "gains": gains, "notes": list(notes)}


def _unshaped(step: Step, model: nn.Module, task: Task, before: Mapping[str, Any]) -> Row:
    """Return the entry of a step that leaves shapes alone."""
    after, gains = dict(before), UNSHAPED.get(step.name, NOTHING)
    if isinstance(step, GraphStep):
        after["weight_bytes"] = min(before["weight_bytes"], _costs(model, task, INT8_BYTES)["weight_bytes"])
        gains = f"at most {_percent(after, before, 'weight_bytes')} of the bytes of weights; MACs in integers"
    return {"step": step.name, "after": after, "ceiling": after, "gains": gains, "notes": [], "problem": None}


def _costs(model: nn.Module, task: Task, weight_bytes: int) -> dict[str, int]:
    """Return MACs, parameters and bytes of weights; tensors of one axis (biases) stay in float."""
    from paretune.measure import macs, parameters

    stored = sum(p.numel() * (weight_bytes if p.ndim > 1 else FLOAT_BYTES) for p in model.parameters())
    return {"macs": macs(model, task.inputs()), "params": parameters(model), "weight_bytes": stored}


def _with_shapes(rows: Sequence[Row], shapes: Shapes) -> list[Row]:
    return [{**row, "after": shapes.get(row["layer"], row["after"])} for row in rows]


def _percent(after: Mapping[str, Any], before: Mapping[str, Any], key: str) -> str:
    """Return how much less there is.

    >>> _percent({"macs": 25}, {"macs": 100}, "macs")
    '75 %'
    """
    return f"{100 * (1 - after[key] / max(1, before[key])):.0f} %"
