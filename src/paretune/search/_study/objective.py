"""The objective: how it is called, and what it may return."""

from __future__ import annotations

import inspect
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from paretune.errors import InputError, is_number

Objective = Callable[..., Any]
"""(config, budget, context) -> loss, or a dict of numbers; it may take only the first one or two, or the first and
what it calls `context`."""
ARGUMENTS = ("config", "budget", "context")


@final
@dataclass(frozen=True)
class Run:
    """What an objective may use beside its configuration."""

    seed: int
    """Of this configuration; the same on every budget, so that a run may go on where it stopped."""
    checkpoint_dir: Path | None = None
    """A folder of this configuration's own, there already, where a run on a larger budget finds what the last one
    left; None where the study keeps no files."""
    report: Callable[[int, float], None] = lambda step, loss: None
    """Tell a loss under way: report(step, loss)."""
    should_stop: Callable[[], bool] = lambda: False
    """Whether the study wants to end: save and return."""


@final
@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    loss: float
    """Infinity where it failed; NaN where it returned a dict without `loss`, until the study's goals judge it."""
    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    """What else it returned."""
    error: str = ""
    """Why it failed, in one line."""
    details: str = ""
    """The traceback."""
    worker: int = 0
    """Which worker ran it, counted from 0; this process is 0."""


def arity(objective: Objective) -> int:
    """Return how many of (config, budget, context) an objective takes; another signature is an InputError."""
    if not callable(objective):
        raise InputError(f"the objective is a {type(objective).__name__}; give a function of (config, budget)")
    try:
        parameters = list(inspect.signature(objective).parameters.values())
    except (TypeError, ValueError):
        return 1  # a builtin tells nothing
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return len(ARGUMENTS)
    taken = [p for p in parameters if p.kind in positional]
    needed = [p for p in parameters if p.default is inspect.Parameter.empty and p.kind not in (
        inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    )]  # fmt: skip
    given = [p for p in taken if p.name in ARGUMENTS or p in needed]
    count = len(given)
    if not 1 <= count <= len(ARGUMENTS) or any(p not in given for p in needed):
        name = getattr(objective, "__name__", repr(objective))
        raise InputError(
            f"the objective {name}{inspect.signature(objective)} must take (config), (config, budget) or (config, "
            "budget, context)"
        )
    return count


def _skips_budget(objective: Objective) -> bool:
    """Tell whether an objective takes (config, context)."""
    try:
        names = list(inspect.signature(objective).parameters)
    except (TypeError, ValueError):
        return False
    return len(names) > 1 and names[1] == ARGUMENTS[2]


def call(objective: Objective, config: Mapping[str, Any], budget: Any, run: Run) -> Outcome:
    """Run an objective, and return how it ended; whatever it raises is told in the outcome."""
    began = time.perf_counter()
    try:
        count = arity(objective)
        given = (dict(config), run) if _skips_budget(objective) else (dict(config), budget, run)[:count]
        returned = objective(*given)
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(math.inf, time.perf_counter() - began, error=told, details=traceback.format_exc())
    return outcome_of(returned, time.perf_counter() - began)


def outcome_of(returned: Any, taken: float) -> Outcome:
    """Return what an objective returned as an outcome; what is no finite number is a failure with its reason."""
    values: dict[str, float] = {}
    if isinstance(returned, Mapping):
        for name, value in returned.items():
            number = _number(value)
            if number is None:
                return _failed(f"the objective returned {name}={value!r:.60}, which is no real number", taken)
            values[str(name)] = number
        if "loss" not in values:
            return Outcome(math.nan, taken, values)
        loss = values.pop("loss")
    else:
        number = _number(returned)
        if number is None:
            what = "nothing (None)" if returned is None else f"{returned!r:.60} ({type(returned).__name__})"
            return _failed(f"the objective returned {what}; return a number, the loss", taken)
        loss = number
    if not math.isfinite(loss):
        return Outcome(math.inf, taken, values, error=f"the loss is {loss:g}")
    return Outcome(loss, taken, values)


def _failed(why: str, taken: float) -> Outcome:
    return Outcome(math.inf, taken, error=why)


def _number(value: Any) -> float | None:
    """Return a real number, a NumPy scalar or a tensor of one element among them; None for anything else."""
    if hasattr(value, "item") and not is_number(value):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):
            return None
    try:
        return float(value) if is_number(value) else None
    except OverflowError:  # a whole number beyond all floats
        return math.inf if value > 0 else -math.inf
