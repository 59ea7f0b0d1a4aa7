"""What a study is after: which of the numbers that an objective returns are to be small or large, and which must
hold a bound.

Values are stored as they were returned; what is ranked is the lower the better, so a value that is to be large
counts with its sign turned. `test`, and what begins with `test_`, is nobody's goal: it is kept for the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

from paretune.errors import InputError, check_choice, nearest
from paretune.search._ranking import Point, Score

if TYPE_CHECKING:
    from paretune.search._study.objective import Outcome
    from paretune.search._study.trial import Trial

LOSS = "loss"
WAYS = ("min", "max")
Objectives = str | Sequence[str] | Mapping[str, str]
Constraints = Mapping[str, str]


@final
@dataclass(frozen=True)
class Constraint:
    """A bound on a value: `latency_ms <= 5`."""

    name: str
    most: bool
    """Whether the bound is the most that is allowed; else the least."""
    bound: float

    @property
    def text(self) -> str:
        """The bound as it is written."""
        return f"{'<=' if self.most else '>='} {self.bound:.12g}"

    def excess(self, value: float) -> float:
        """Return by how much a value misses, in its own unit; 0 or less where it holds."""
        return value - self.bound if self.most else self.bound - value

    def violation(self, value: float) -> float:
        """Return by how much a value misses, as a part of the bound (of 1 where that is 0); 0 where it holds."""
        return max(0.0, self.excess(value)) / (abs(self.bound) or 1.0)


@final
@dataclass(frozen=True)
class Goals:
    """Objectives and constraints."""

    objectives: tuple[tuple[str, str], ...] = ((LOSS, "min"),)
    """Names, each with `min` or `max`."""
    constraints: tuple[Constraint, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the loss alone is the goal."""
        return self == LOSS_ALONE

    @property
    def several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @property
    def by_points(self) -> bool:
        """Whether runs are ranked by more than one number: by all objectives, or by constraints, too."""
        return self.several or bool(self.constraints)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Each objective's direction, in Optuna's words."""
        return ["minimize" if way == "min" else "maximize" for _, way in self.objectives]

    def signed(self, value: float) -> float:
        """Return the loss of a value of the first objective, and its value of a loss."""
        return _signed(value, self.objectives[0][1])

    def judge(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose loss is the first objective, the lower the better; a failure where it lacks a
        number that a goal needs."""
        if outcome.error:
            return outcome
        returned = dict(outcome.values) if math.isnan(outcome.loss) else {LOSS: outcome.loss, **outcome.values}
        for name in self.names:
            if name not in returned:
                return _failed(outcome, _lacks(name, returned))
            if not math.isfinite(returned[name]):
                return _failed(outcome, f"{name} is {returned[name]:g}")
        (first, way), *_ = self.objectives
        kept = {name: value for name, value in returned.items() if (first, way, name) != (LOSS, "min", LOSS)}
        return replace(outcome, loss=self.signed(returned[first]), values=kept)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a run must return."""
        return tuple(
            dict.fromkeys([name for name, _ in self.objectives] + [bound.name for bound in self.constraints])
        )

    def values(self, trial: Trial | Outcome) -> tuple[float, ...]:
        """Return the objectives' values of a run that succeeded, as it returned them."""
        return tuple(_value(trial, name) for name, _ in self.objectives)

    def violation(self, trial: Trial | Outcome) -> float:
        """Return how much a run that succeeded misses its constraints, added up over them."""
        return sum(bound.violation(_value(trial, bound.name)) for bound in self.constraints)

    def excesses(self, outcome: Outcome) -> dict[str, float]:
        """Return each constraint's value as Optuna has it: feasible where it is 0 or less."""
        return {f"{b.name} {b.text}": b.excess(_value(outcome, b.name)) for b in self.constraints}

    def score(self, trial: Trial | Outcome) -> Score:
        """Return what a run is ranked by: its loss where that says it all."""
        assert trial.loss is not None
        if not self.by_points:
            return trial.loss
        if trial.error:
            return Point((math.inf,) * len(self.objectives))
        signed = zip(self.values(trial), self.objectives, strict=True)
        return Point(tuple(_signed(value, way) for value, (_, way) in signed), self.violation(trial))

    def missed(self, trial: Trial) -> str:
        """Return by how much a run misses each constraint that it does not hold, in words.

        >>> from paretune.search._study.objective import Outcome
        >>> goals_of("loss", {"latency": "<= 5"}).missed(Outcome(0.5, 1.0, {"latency": 6.0}))
        'latency 6 misses <= 5 by 1'
        """
        told = []
        for bound in self.constraints:
            value = _value(trial, bound.name)
            if bound.excess(value) > 0:
                told.append(f"{bound.name} {value:.6g} misses {bound.text} by {bound.excess(value):.6g}")
        return ", ".join(told)

    def told(self, trial: Trial) -> dict[str, Any]:
        """Return what progress tells of a run that ended: its objectives' values, and what it misses."""
        if trial.error:
            return {"objectives": {}, "missed": ""}
        names = [name for name, _ in self.objectives]
        return {"objectives": dict(zip(names, self.values(trial), strict=True)), "missed": self.missed(trial)}

    def to_json(self) -> dict[str, Any]:
        """Return what is not the default, as a study's plan keeps it; `goals_of` reads it."""
        found: dict[str, Any] = {}
        if self.objectives != LOSS_ALONE.objectives:
            found["objectives"] = dict(self.objectives)
        if self.constraints:
            found["constraints"] = {bound.name: bound.text for bound in self.constraints}
        return found


LOSS_ALONE = Goals()


def goals_of(objectives: Objectives = LOSS, constraints: Constraints | None = None) -> Goals:
    """Return what a user wrote.

    objectives: a name or a list of them, all to be small, or {name: "min" or "max"}. constraints: {name: "<= 5"}.

    >>> goals_of({"loss": "min", "accuracy": "max"}, {"size": "<= 1e6"}).names
    ('loss', 'accuracy', 'size')
    """
    return Goals(_objectives(objectives), _constraints({} if constraints is None else constraints))


def is_test(name: str) -> bool:
    """Tell whether a value is kept for the end.

    >>> is_test("test"), is_test("test_loss"), is_test("testing")
    (True, True, False)
    """
    return name == "test" or name.startswith("test_")


def hidden(values: Mapping[str, float]) -> dict[str, float]:
    """Return values without those that are kept for the end."""
    return {name: value for name, value in values.items() if not is_test(name)}


def _objectives(given: Objectives) -> tuple[tuple[str, str], ...]:
    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, Mapping | Iterable) or not given:
        raise InputError(f"objectives: {given!r} must be names as [loss, latency], or {{loss: min, error: max}}")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, "min") for name in given]
    for name, way in pairs:
        _check_name("objectives", name)
        check_choice(f"objectives: {name}", way, WAYS)
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"objectives: '{twice}' is there twice in {names}")
    return tuple(pairs)


def _constraints(given: Constraints) -> tuple[Constraint, ...]:
    if not isinstance(given, Mapping):
        raise InputError(f"constraints: {given!r} must be names with bounds, as {{latency_ms: '<= 5'}}")
    found = []
    for name, text in given.items():
        _check_name("constraints", name)
        match = re.fullmatch(r"\s*(<=|>=)\s*(\S+)\s*", text) if isinstance(text, str) else None
        bound = _float(match[2]) if match else math.nan
        if match is None or not math.isfinite(bound):
            raise InputError(f"constraints: {name}: {text!r} must be '<= number' or '>= number', as '<= 5'")
        found.append(Constraint(name, match[1] == "<=", bound))
    return tuple(found)


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: {name!r} must be the name of a number that the objective returns")
    if is_test(name):
        raise InputError(f"{where}: '{name}' is kept for the end, as all that begins with 'test'; rename it")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _value(run: Trial | Outcome, name: str) -> float:
    """Return a value of a run; a loss that is the first objective is not among its values."""
    found = run.values.get(name, run.loss)
    assert found is not None
    return found


def _signed(value: float, way: str) -> float:
    return value if way == "min" else -value


def _lacks(name: str, returned: Mapping[str, float]) -> str:
    if list(returned) == [LOSS]:
        return f"the objective returned the loss alone, without '{name}'; return a dict of both"
    keys = ", ".join(returned) or "empty"
    return f"the objective returned a dict without '{name}': {keys}.{nearest(name, returned)}"


def _failed(outcome: Outcome, why: str) -> Outcome:
    return replace(outcome, loss=math.inf, error=why)
