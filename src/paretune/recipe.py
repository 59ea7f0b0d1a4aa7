"""A `Recipe`: an ordered list of steps, in YAML or Python, the same thing either way.

A `Step` is a frozen dataclass that holds its parameters, is validated when it is built, and transforms a model
(`apply`) or, after export, an ONNX graph (`apply_graph`). Recipes are read without importing the task, and all
mistakes of a recipe are reported at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from paretune.cuts import Cuts
from paretune.errors import InputError, ParetuneError, RecipeError, nearest
from paretune.methods import registry
from paretune.target import Target
from paretune.task import with_arguments

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from paretune.task import Task


@dataclass(frozen=True)
class Range:
    """The sensible range of a step's parameter, as its annotation: validates, documents, spans a search."""

    low: float
    high: float
    """Infinity where there is no upper end: an amount, which a search must be given a range for."""
    low_open: bool = False
    """True where `low` itself is not allowed."""
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = "above" if self.low_open else "at least"
        high = "below" if self.high_open else "at most"
        return f"{low} {self.low:g}" + ("" if self.high == math.inf else f" and {high} {self.high:g}")


def _ignore(kind: str, fields: dict[str, Any]) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step may use beside the model and the task."""

    seed: int = 0
    device: str = "cpu"
    target: Target = field(default_factory=Target)
    emit: Callable[[str, dict[str, Any]], None] = _ignore
    """Progress: emit("epoch", {...}). The kinds and their fields are listed in `docs/events.md`."""
    teacher: nn.Module | None = None
    """The baseline, unpruned, in eval mode; distillation learns from it. Never changed."""
    whole: nn.Module | None = None
    """In rounds of pruning: the model that came into the first, which is what ratios are of."""
    folder: Path | None = None
    """Where a step keeps what it needs to go on after a kill (epoch checkpoints); None keeps nothing."""


@dataclass(frozen=True)
class StepResult:
    """What a step made of a model."""

    model: nn.Module
    cuts: tuple[Cuts, ...] = ()
    """Surgery that this step did, to be replayed in this order."""
    notes: tuple[str, ...] = ()
    """What the user must know: fallbacks, what did not help."""
    details: dict[str, Any] = field(default_factory=dict)
    """Plain JSON for the report: training curves, per-layer tables."""


class Step:
    """One transformation of a model. Subclasses are frozen keyword-only dataclasses with a `name`."""

    name: ClassVar[str]
    """As recipes and the command line write it: `prune.channels`."""
    uses_teacher: ClassVar[bool] = False
    """True where the result depends on the baseline model (then it is part of the cache key)."""
    uses_data: ClassVar[tuple[str, ...]] = ()
    """The splits of the task that the result depends on."""
    cumulative: ClassVar[bool] = False
    """True where amounts count what an earlier step took: nine of ten weights zero, whenever they became it."""

    of_whole: ClassVar[bool] = False
    """True where in rounds of pruning a ratio is of `Context.whole`, so that no round rounds its share away."""
    ratio_stays: ClassVar[bool] = False
    """True where `ratio` says what stays, not what goes."""

    @property
    def uses_target(self) -> bool:
        """Whether the result depends on timings on the target (then it is part of the cache key)."""
        return False

    def apply(self, model: nn.Module, task: Task, context: Context) -> StepResult:
        """Return the transformed model; the one given may be changed and must not be used again."""
        raise TypeError(f"{self.name} works on the exported graph: put it after the steps on the model")

    def parameters(self) -> dict[str, Any]:
        """Return the step's parameters as plain values, in declared order."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


class GraphStep(Step):
    """A step that runs after export, on the ONNX graph."""

    def apply_graph(self, graph: onnx.ModelProto, task: Task, context: Context) -> onnx.ModelProto:
        """Return a new graph; the one given is not changed."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What the chosen candidate must hold; None constrains nothing."""

    max_drop: float | None = None
    """Points of a percentage where the metric is a fraction of samples, else percent of the baseline's value."""
    max_latency: str | float | None = None
    """Of what the baseline takes ("0.5x"), or milliseconds ("3ms" or 3)."""
    max_size: str | float | None = None
    """Of the baseline's bytes ("0.25x"), or bytes ("300KB" or 300000)."""
    max_flips: float | None = None
    """Percent of samples right before and wrong now."""
    max_class_drop: float | None = None
    """Points that the worst class may lose."""

    def __post_init__(self) -> None:
        for name in ("max_drop", "max_flips", "max_class_drop"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
                raise RecipeError(f"constraints: {name}={value!r} must be a number of at least 0")
        for name, units in (("max_latency", LATENCY_UNITS), ("max_size", SIZE_UNITS)):
            if getattr(self, name) is not None:
                amount(getattr(self, name), units, name)


LEFT_OPEN = {"float", "int", "categorical", "ordered", "search"}
"""What a value that is left open says: one of a search space."""
LATENCY_UNITS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
SIZE_UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2}


def amount(value: str | float, units: Mapping[str, float], name: str) -> tuple[float, bool]:
    """Return (number, relative) of "0.5x", "3ms" or 3; relative to the baseline if it ends with x.

    >>> amount("0.5x", LATENCY_UNITS, "max_latency")
    (0.5, True)
    >>> amount("300KB", SIZE_UNITS, "max_size")
    (300000.0, False)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = match.group(2) if match else ""
    if isinstance(value, bool) or match is None or (unit not in ("", "x") and unit not in units):
        raise RecipeError(
            f"{name}={value!r} is no amount; write '0.5x' for a fraction of the baseline's, "
            f"or a number with a unit of {', '.join(units)}"
        )
    number = float(match.group(1))
    if number <= 0:
        raise RecipeError(f"{name}={value!r} must be above 0")
    return (number, True) if unit == "x" else (number * units.get(unit, 1.0), False)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps for a task on a target, under constraints."""

    steps: tuple[Step, ...]
    task: str | None = None
    """FILE:FUNCTION or MODULE:FUNCTION, with arguments where it takes some: `net.py:make_task(width=32)`; None
    where the task is handed over in Python."""
    target: Target = field(default_factory=Target)
    constraints: Constraints = field(default_factory=Constraints)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        kinds = [isinstance(step, GraphStep) for step in self.steps]
        if kinds != sorted(kinds):
            late = next(
                step.name
                for step, previous in zip(self.steps[1:], kinds, strict=False)
                if previous and not isinstance(step, GraphStep)
            )
            raise RecipeError(
                f"steps: {late} works on the model, but stands after a step on the exported graph; "
                "put the graph steps (quantize.*) last"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as resolved: every default written out, ready for YAML."""
        content: dict[str, Any] = {} if self.task is None else {"task": self.task}
        content["target"] = dataclasses.asdict(self.target)
        content["steps"] = [{step.name: step.parameters()} for step in self.steps]
        content["constraints"] = {k: v for k, v in dataclasses.asdict(self.constraints).items() if v is not None}
        return content | {"seed": self.seed, "device": self.device}

    def to_yaml(self) -> str:
        """Return the recipe as resolved, in YAML."""
        import yaml

        return str(yaml.safe_dump(self.to_dict(), sort_keys=False))


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `step.field=value` overrides, and report all its mistakes at once."""
    return parse_recipe(read_plain(path), overrides=overrides, source=str(path))


def read_plain(path: str | Path) -> Any:
    """Return the plain values of a recipe's file; what cannot be read is a RecipeError."""
    import yaml

    path = Path(path)
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        raise RecipeError(
            f"no recipe {path}.{nearest(path.name, [entry.name for entry in folder.glob('*.y*ml')])}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from error


def parse_recipe(content: Any, *, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
    """Return the recipe that plain values describe; every mistake is in one RecipeError."""
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise RecipeError(f"{source}: a recipe is a mapping with task and steps, and this is {found}")
    mistakes: list[str] = []
    known = ("task", "model", "target", "steps", "constraints", "seed", "device")
    mistakes += [
        f"{source}: no field '{key}'.{nearest(str(key), known)} A recipe has {', '.join(known)}."
        for key in content
        if key not in known
    ]
    raw_steps = content.get("steps")
    if not isinstance(raw_steps, list) or not raw_steps:
        mistakes.append(f"{source}: steps must be a list with at least one step; got {raw_steps!r}")
        raw_steps = []
    named = [_name_and_fields(raw) for raw in raw_steps]
    mistakes += _apply_overrides(named, content, overrides)
    steps = []
    for index, (name, fields) in enumerate(named):
        where = f"{source}, step {index + 1} of {len(named)} ({name})"
        step = _build_step(name, fields, where, mistakes)
        if step is not None:
            steps.append(step)
    parts: dict[str, Any] = {}
    for key, kind in (("target", Target), ("constraints", Constraints)):
        parts[key] = _build(kind, content.get(key) or {}, f"{source}, {key}", mistakes) or kind()
    seed, device, task = content.get("seed", 0), content.get("device", "cpu"), content.get("task")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        mistakes.append(f"{source}: seed={seed!r} must be a whole number of at least 0")
    if not isinstance(device, str) or not re.fullmatch(r"(cpu|cuda|mps)(:[0-9]+)?", device):
        mistakes.append(f"{source}: device={device!r} must be cpu, cuda or mps")
    if task is not None and not isinstance(task, str):
        mistakes.append(f"{source}: task={task!r} must be written path/to/file.py:make_task")
        task = None
    if (model := content.get("model")) is not None:
        task = _with_model(task, model, source, mistakes)
    recipe = None
    if not mistakes:
        try:
            recipe = Recipe(steps=tuple(steps), task=task, seed=seed, device=device, **parts)
        except RecipeError as error:
            mistakes.append(f"{source}, {error}")
    if mistakes or recipe is None:
        raise RecipeError("\n".join(mistakes))
    return recipe


def _with_model(task: str | None, model: Any, source: str, mistakes: list[str]) -> str | None:
    """Return the task's reference with the arguments that `model:` gives its function."""
    if not isinstance(model, dict) or not all(isinstance(name, str) and name.isidentifier() for name in model):
        mistakes.append(f"{source}: model: must be a mapping like {{width: 32}}, arguments of the task's function")
    elif task is None:
        mistakes.append(f"{source}: model: gives arguments to the task's function, and there is no task:")
    else:
        try:
            return with_arguments(task, numbers(model))
        except InputError as error:
            mistakes.append(f"{source}: {error}")
    return task


def step_of(spec: Any, where: str) -> Step:
    """Return the step that `{"prune.channels": {"macs": 0.5}}` or a bare name describes; where: for the errors."""
    mistakes: list[str] = []
    name, fields = _name_and_fields(spec)
    step = _build_step(name, fields, where, mistakes)
    if step is None:
        raise RecipeError("\n".join(mistakes))
    return step


def _name_and_fields(raw: Any) -> tuple[str, Any]:
    """Return (name, fields) of `- distill: {epochs: 8}` or of the bare `- distill`."""
    if isinstance(raw, str):
        return raw, {}
    if isinstance(raw, dict) and len(raw) == 1:
        name, fields = next(iter(raw.items()))
        return str(name), dict(fields) if isinstance(fields, dict) else ({} if fields is None else fields)
    return repr(raw), None


def _apply_overrides(named: list[tuple[str, Any]], content: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Write `distill.epochs=2` (or `2.epochs=2` by position, `constraints.max_drop=1`) into the raw values."""
    import yaml

    mistakes = []
    for override in overrides:
        path, separator, text = override.partition("=")
        place, dot, name = path.strip().rpartition(".")
        if not separator or not name:
            mistakes.append(f"--set {override}: write step.field=value, for example distill.epochs=2")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            mistakes.append(f"--set {override}: '{text}' is not a YAML value")
            continue
        matches = [i for i, (step, _) in enumerate(named) if place in (step, str(i + 1))]
        if matches:
            for i in matches:
                if isinstance(named[i][1], dict):
                    named[i][1][name] = value
        elif place in ("target", "constraints"):
            frame = content.get(place)
            content[place] = {**(frame if isinstance(frame, dict) else {}), name: value}
        elif not dot and name in ("seed", "device", "task"):
            content[name] = value
        else:
            places = [step for step, _ in named] + ["target", "constraints"]
            mistakes.append(f"--set {override}: the recipe has no step '{place}'.{nearest(place, places)}")
    return mistakes


def _build_step(name: str, fields: Any, where: str, mistakes: list[str]) -> Step | None:
    if fields is None:
        mistakes.append(f"{where}: a step is a name, or a name with its fields: `- distill: {{epochs: 8}}`")
        return None
    steps = registry("steps")
    if name not in steps:
        mistakes.append(
            f"{where}: no step '{name}'.{nearest(name, steps)} `paretune methods steps` lists all {len(steps)}."
        )
        return None
    step: Step | None = _build(steps[name], fields, where, mistakes)
    return step


def _build(kind: Any, fields: Any, where: str, mistakes: list[str]) -> Any:
    """Build a dataclass from plain fields; collect what is wrong with them."""
    if not isinstance(fields, dict):
        mistakes.append(f"{where}: its fields must be a mapping like {{name: value}}, not {fields!r}")
        return None
    fields = numbers(fields)
    declared = {f.name: f for f in dataclasses.fields(kind)}
    before = len(mistakes)
    left_open = [key for key, value in fields.items() if isinstance(value, dict) and LEFT_OPEN & set(value)]
    mistakes += [
        f"{where}: {key} is left open; `paretune search run` fills it in, by a study's file that says `recipe:`, "
        "and a run needs a value"
        for key in left_open
        if key in declared
    ]
    for key in fields:
        if key not in declared:
            mistakes.append(
                f"{where}: no field '{key}'.{nearest(str(key), declared)} It has {', '.join(declared)}."
            )
    for key, f in declared.items():
        if key not in fields and f.default is MISSING and f.default_factory is MISSING:
            mistakes.append(f"{where}: needs {key}")
    told = {key: value for key, value in fields.items() if key not in left_open}
    mistakes += [f"{where}: {problem}" for problem in type_problems(kind, told)]
    if len(mistakes) > before:
        return None
    try:
        return kind(**{key: _frozen(value) for key, value in fields.items()})
    except ParetuneError as error:
        mistakes.append(f"{where}: {error}")
    except (TypeError, ValueError) as error:
        mistakes.append(f"{where}: {error}")
    return None


def type_problems(kind: Any, fields: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the fields' types and ranges, one sentence each."""
    import typing

    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(kind, include_extras=True)
    problems = []
    for key, value in fields.items():
        if key not in hints:
            continue
        try:
            TypeAdapter(typing.get_type_hints(kind)[key]).validate_python(_frozen(value), strict=True)
        except ValidationError as error:
            problems.append(f"{key}={value!r}: {error.errors()[0]['msg'].lower()}")
            continue
        for extra in getattr(hints[key], "__metadata__", ()):
            if isinstance(extra, Range) and isinstance(value, int | float) and value not in extra:
                problems.append(f"{key}={value!r} must be {extra}")
    return problems


def check_ranges(step: Any) -> None:
    """Raise a RecipeError for a dataclass's first field outside its annotated range; for `__post_init__`."""
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    problems = type_problems(type(step), fields)
    if problems:
        raise RecipeError(f"{type(step).name}: {problems[0]}")


def numbers(value: Any) -> Any:
    """Return values with the numbers that `1e-5` means: YAML 1.1 reads an exponent without a point as text.

    >>> numbers({"float": ["1e-5", 0.1], "when": {"opt": "sgd"}})
    {'float': [1e-05, 0.1], 'when': {'opt': 'sgd'}}
    """
    if isinstance(value, Mapping):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+", value):
        return float(value)
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


__all__ = [
    "Constraints",
    "Context",
    "GraphStep",
    "InputError",
    "Range",
    "Recipe",
    "Step",
    "StepResult",
    "amount",
    "check_ranges",
    "parse_recipe",
    "read_recipe",
    "step_of",
]
