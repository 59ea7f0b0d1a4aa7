"""Hyperparameters: what values each may have, and the same on the unit interval, where samplers work.

A number that may take finitely many values (a whole number, a step, an ordered value, a category) has a cell of
the unit interval for each of them, and a value is its cell's middle. So every value goes to the unit interval
and back unchanged, and a density over the interval is a density over the values. Continuous values are rounded
to twelve digits, which is what makes their way back exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from paretune.errors import InputError, is_number, nearest
from paretune.search._space.predicates import Predicate, all_of, predicate
from paretune.search._space.priors import AUTO, About, Beta, Prior, read_prior

Array = NDArray[np.float64]
When = Predicate | str | Sequence[Predicate | str] | None
Scale = Literal["number", "ordered", "category"]

DIGITS = 12
WIDEST = 2**50
"""Most values of a whole number: its cells must be told apart in float64."""
WIDEST_LOG = 10**12


class Parameter(ABC):
    """A hyperparameter of a space, active where its condition holds."""

    scale: Scale
    when: Predicate | None

    @property
    @abstractmethod
    def count(self) -> float:
        """How many values it has; infinity for a continuous one."""

    @abstractmethod
    def values(self) -> list[Any]:
        """Return all its values, of which there must be finitely many."""

    @abstractmethod
    def encode(self, value: Any) -> float:
        """Return a value as a number in [0, 1]; one that is not allowed is an InputError."""

    @abstractmethod
    def decode(self, unit: float) -> Any:
        """Return the value that a number in [0, 1] stands for."""

    @abstractmethod
    def draw(self, shares: Array) -> Array:
        """Return numbers in [0, 1] of which these shares of the prior lie below: draws, from uniform shares."""

    @abstractmethod
    def density(self, units: Array) -> Array:
        """Return the prior's density at numbers in [0, 1]: 1 where all values are as likely."""

    @property
    @abstractmethod
    def informed(self) -> bool:
        """Whether a prior was given."""


class _Number(Parameter):
    """What Float and Int share: a scale, linear or log, over [low, high], and a prior on it.

    Float and Int are dataclasses, which set `_low` and `_high`, the ends of the first and the last cell.
    """

    scale: Scale = "number"
    log: bool
    prior: Prior | About | str | None
    _low: float
    _high: float
    _belief: Prior | None

    @property
    def informed(self) -> bool:
        return self._belief is not None

    def nearest(self, value: float) -> Any:
        """Return the value of this parameter that lies nearest to a number."""
        return self.decode(min(max(float(self._unit(np.array([float(value)]))[0]), 0.0), 1.0))

    def _value(self, units: Array) -> Array:
        if not self.log:
            return self._low + units * (self._high - self._low)
        low, high = math.log(self._low), math.log(self._high)
        return np.asarray(np.exp(low + units * (high - low)))

    def _unit(self, values: Array) -> Array:
        if not self.log:
            return (values - self._low) / (self._high - self._low)
        low, high = math.log(self._low), math.log(self._high)
        return np.asarray((np.log(values) - low) / (high - low))

    def _ends(self) -> tuple[float, float]:
        assert self._belief is not None
        ends = self._belief.cdf(np.array([self._low, self._high]))
        return float(ends[0]), float(ends[1])

    def draw(self, shares: Array) -> Array:
        if self._belief is None:
            return np.asarray(shares, dtype=np.float64)
        low, high = self._ends()
        values = np.clip(self._belief.ppf(low + shares * (high - low)), self._low, self._high)
        return np.clip(self._unit(values), 0.0, 1.0)

    def density(self, units: Array) -> Array:
        if self._belief is None:
            return np.ones_like(units)
        low, high = self._ends()
        values = self._value(units)
        slope = values * math.log(self._high / self._low) if self.log else self._high - self._low
        return np.asarray(self._belief.pdf(values) * slope / (high - low))

    def _settle(self, kind: str) -> None:
        """Set the belief, resolved on this range; one without mass in it is an InputError."""
        given = read_prior(self.prior, kind)
        if isinstance(given, str):
            given = None  # auto: uniform, until a study begins
        if isinstance(given, About):
            given = given.resolve(self._low, self._high, self.log)
        if isinstance(given, Beta) and (given.low, given.high) == (0.0, 1.0):
            given = replace(given, low=self._low, high=self._high)
        object.__setattr__(self, "_belief", given)
        if given is not None and not (mass := np.subtract(*self._ends()[::-1])) > 1e-6:
            raise InputError(
                f"{kind}: the prior {self.prior} leaves {mass:.1g} of its mass in [{self._low:g}, "
                f"{self._high:g}]; move it into the range, or widen either"
            )


@final
@dataclass(frozen=True, eq=True)
class Float(_Number):
    """A real number in [low, high].

    log: its logarithm is what is uniform. step: only low, low + step, ..., high. prior: what is believed of it,
    "auto" is fitted from earlier studies in the same storage.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Prior | About | str | None = None
    when: When = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _check_ends("Float", self.low, self.high, self.log)
        if self.step is not None:
            _check_step("Float", self.low, self.high, self.step, self.log)
        half = 0.0 if self.step is None else self.step / 2
        object.__setattr__(self, "_low", self.low - half)
        object.__setattr__(self, "_high", self.high + half)
        object.__setattr__(self, "when", condition(self.when))
        self._settle("Float")

    @property
    def count(self) -> float:
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    def values(self) -> list[Any]:
        return [self.decode((index + 0.5) / self.count) for index in range(int(self.count))]

    def encode(self, value: Any) -> float:
        if not is_number(value) or not self.low <= value <= self.high:
            raise InputError(f"{value!r} is not in [{self.low:g}, {self.high:g}]")
        if self.step is not None:
            index = round((value - self.low) / self.step)
            if not math.isclose(self.low + index * self.step, value, rel_tol=1e-9, abs_tol=1e-9 * self.step):
                raise InputError(f"{value!r} is not {self.low:g} and a number of steps of {self.step:g}")
            return float((index + 0.5) / self.count)
        return float(self._unit(np.array([float(value)]))[0])

    def decode(self, unit: float) -> float:
        if self.step is not None:
            index = min(int(unit * self.count), int(self.count) - 1)
            return min(max(_rounded(self.low + index * self.step, self.step), self.low), self.high)
        value = float(self._value(np.array([unit]))[0])
        value = float(f"{value:.{DIGITS}g}") if self.log else _rounded(value, self.high - self.low)
        return min(max(value, self.low), self.high)


@final
@dataclass(frozen=True, eq=True)
class Int(_Number):
    """A whole number in [low, high], both included.

    log: its logarithm is what is uniform. step: only low, low + step, ..., high. prior: what is believed of it,
    "auto" is fitted from earlier studies in the same storage.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    prior: Prior | About | str | None = None
    when: When = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _check_ends("Int", self.low, self.high, self.log)
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise InputError(f"Int: {name}={value!r} must be a whole number; use Float for others")
        if self.step != 1:
            _check_step("Int", self.low, self.high, self.step, self.log)
        if self.high - self.low > (WIDEST_LOG if self.log else WIDEST):
            raise InputError(f"Int: [{self.low}, {self.high}] has too many values to be told apart; use Float")
        object.__setattr__(self, "_low", self.low - self.step / 2)
        object.__setattr__(self, "_high", self.high + self.step / 2)
        object.__setattr__(self, "when", condition(self.when))
        self._settle("Int")

    @property
    def count(self) -> float:
        return (self.high - self.low) // self.step + 1

    def values(self) -> list[Any]:
        return list(range(self.low, self.high + 1, self.step))

    def encode(self, value: Any) -> float:
        if isinstance(value, bool) or not is_number(value) or value != int(value):
            raise InputError(f"{value!r} is no whole number")
        if not self.low <= value <= self.high or (value - self.low) % self.step:
            steps = f" in steps of {self.step}" if self.step != 1 else ""
            raise InputError(f"{value!r} is not in [{self.low}, {self.high}]{steps}")
        if self.log:
            return float(self._unit(np.array([float(value)]))[0])
        return ((int(value) - self.low) // self.step + 0.5) / self.count

    def decode(self, unit: float) -> int:
        if self.log:
            return min(max(round(float(self._value(np.array([unit]))[0])), self.low), self.high)
        return self.low + self.step * min(int(unit * self.count), int(self.count) - 1)


class _Listed(Parameter):
    """What Categorical and Ordered share: a list of values, each with a weight."""

    choices: Sequence[Any]
    weights: Sequence[float] | str | None

    @property
    def informed(self) -> bool:
        return self.weights is not None and self.weights != AUTO

    @property
    def count(self) -> float:
        return len(self.choices)

    def values(self) -> list[Any]:
        return list(self.choices)

    def _shares(self) -> Array:
        """Return the probability of each value."""
        weights = np.array(self.weights, dtype=float) if self.informed else np.ones(len(self.choices))
        return np.asarray(weights / weights.sum())

    def encode(self, value: Any) -> float:
        value = plain(value, "")
        for index, choice in enumerate(self.choices):
            if type(choice) is type(value) and choice == value:
                return (index + 0.5) / len(self.choices)
        for index, choice in enumerate(self.choices):
            if is_number(choice) and is_number(value) and choice == value:
                return (index + 0.5) / len(self.choices)
        names = [str(choice) for choice in self.choices]
        raise InputError(f"{value!r} is none of {list(self.choices)!r}.{nearest(str(value), names)}")

    def decode(self, unit: float) -> Any:
        return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]

    def draw(self, shares: Array) -> Array:
        edges = np.concatenate([[0.0], np.cumsum(self._shares())])
        edges[-1] = 1.0
        index = np.clip(np.searchsorted(edges, shares, side="right") - 1, 0, len(self.choices) - 1)
        inside = (shares - edges[index]) / np.maximum(edges[index + 1] - edges[index], 1e-300)
        return np.asarray((index + np.clip(inside, 0.0, np.nextafter(1.0, 0.0))) / len(self.choices))

    def density(self, units: Array) -> Array:
        index = np.minimum((units * len(self.choices)).astype(int), len(self.choices) - 1)
        return np.asarray(self._shares()[index] * len(self.choices))

    def _check(self, kind: str) -> None:
        object.__setattr__(self, "when", condition(self.when))
        if isinstance(self.choices, str) or not isinstance(self.choices, Sequence):
            raise InputError(f"{kind}: choices={self.choices!r} must be a list")
        object.__setattr__(self, "choices", tuple(plain(choice, kind) for choice in self.choices))
        if len(self.choices) < 2:
            raise InputError(f"{kind}: {list(self.choices)!r} leaves no choice; give two or more, or Constant")
        for index, choice in enumerate(self.choices):
            if is_number(choice) and not math.isfinite(choice):
                raise InputError(f"{kind}: {choice!r} is no value that a trial can have")
            if any(type(choice) is type(other) and choice == other for other in self.choices[:index]):
                raise InputError(f"{kind}: {choice!r} is there twice in {list(self.choices)!r}")
        if self.weights is None or self.weights == AUTO:
            return
        if isinstance(self.weights, str) or not isinstance(self.weights, Sequence | np.ndarray):
            raise InputError(f"{kind}: weights={self.weights!r} must be a list of numbers, or auto")
        weights: tuple[Any, ...] = tuple(self.weights)
        object.__setattr__(self, "weights", weights)
        if len(weights) != len(self.choices):
            raise InputError(
                f"{kind}: {len(weights)} weights for {len(self.choices)} values {list(self.choices)!r}"
            )
        if any(not is_number(w) or not 0 <= w < math.inf for w in weights) or sum(weights) <= 0:
            raise InputError(f"{kind}: weights={list(weights)!r} must be numbers of 0 or more, not all of them 0")


@final
@dataclass(frozen=True, eq=True)
class Categorical(_Listed):
    """One of several values without an order. weights: how likely each is, before anything was tried, or auto."""

    choices: Sequence[Any]
    weights: Sequence[float] | str | None = None
    when: When = None  # type: ignore[assignment]
    scale: Scale = "category"

    def __post_init__(self) -> None:
        self._check("Categorical")


@final
@dataclass(frozen=True, eq=True)
class Ordered(_Listed):
    """One of several values in this order: neighbours are alike. weights: how likely each is beforehand."""

    choices: Sequence[Any]
    weights: Sequence[float] | str | None = None
    when: When = None  # type: ignore[assignment]
    scale: Scale = "ordered"

    def __post_init__(self) -> None:
        self._check("Ordered")


@final
@dataclass(frozen=True, eq=True)
class Constant(Parameter):
    """A value that is not searched over, but is part of every configuration."""

    value: Any
    when: When = None  # type: ignore[assignment]
    scale: Scale = "category"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain(self.value, "Constant"))
        object.__setattr__(self, "when", condition(self.when))

    @property
    def informed(self) -> bool:
        return False

    @property
    def count(self) -> float:
        return 1

    def values(self) -> list[Any]:
        return [self.value]

    def encode(self, value: Any) -> float:
        if plain(value, "") != self.value:
            raise InputError(f"{value!r} is not the constant {self.value!r}")
        return 0.5

    def decode(self, unit: float) -> Any:
        return self.value

    def draw(self, shares: Array) -> Array:
        return np.full_like(shares, 0.5)

    def density(self, units: Array) -> Array:
        return np.ones_like(units)


def plain(value: Any, kind: str) -> Any:
    """Return a value as a study stores it: None, true and false, numbers, texts, lists and mappings of them.

    NumPy's numbers become Python's and tuples lists. Anything else is an InputError; kind: empty for a value that
    is only compared, which is returned as it is.

    >>> plain((3, np.int64(4)), "Constant")
    [3, 4]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [plain(each, kind) for each in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(each, kind) for name, each in value.items()}
    if value is None or isinstance(value, str | int | float) or not kind:
        return value
    raise InputError(
        f"{kind}: {value!r} cannot be stored with a study; give its name, and look it up in the objective"
    )


def condition(given: When) -> Predicate | None:
    """Return the one condition that a parameter's `when` stands for: all of those listed."""
    if given is None:
        return None
    if isinstance(given, str | Predicate) or callable(given):
        return predicate(given)
    if not isinstance(given, Sequence):
        raise InputError(
            f"when={given!r} must be a condition, as when('opt', 'sgd') or 'depth > 2', or a list of them"
        )
    return all_of(tuple(predicate(each) for each in given)) if given else None


def _check_ends(kind: str, low: Any, high: Any, log: Any) -> None:
    for name, value in (("low", low), ("high", high)):
        if not is_number(value) or not math.isfinite(value):
            raise InputError(f"{kind}: {name}={value!r} must be a finite number")
    if low >= high:
        raise InputError(f"{kind}: low={low:g} must be below high={high:g}")
    if not math.isfinite(float(high) - float(low)):
        raise InputError(f"{kind}: [{low:g}, {high:g}] is too wide for float64; with log=True give its exponent")
    if not isinstance(log, bool):
        raise InputError(f"{kind}: log={log!r} must be true or false")
    if log and low <= 0:
        raise InputError(f"{kind}: low={low:g} has no logarithm; with log=True both ends must be above 0")


def _check_step(kind: str, low: float, high: float, step: Any, log: bool) -> None:
    if not is_number(step) or not 0 < step < math.inf:
        raise InputError(f"{kind}: step={step!r} must be above 0")
    if log:
        raise InputError(f"{kind}: step={step:g} and log=True do not go together; give one of the two")
    steps = (high - low) / step
    if not math.isclose(steps, round(steps), rel_tol=1e-9) or round(steps) < 1:
        fits = low + math.floor(steps) * step
        raise InputError(
            f"{kind}: step={step:g} does not divide the range from {low:g} to {high:g}; high={fits:g} would fit"
        )


def _rounded(value: float, span: float) -> float:
    """Round to twelve digits of a span."""
    return round(value, DIGITS - 1 - math.floor(math.log10(span)))
