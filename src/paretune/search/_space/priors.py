"""Priors: what is believed of a number before anything was tried, a distribution over its range.

Each prior is a distribution over the values themselves; what lies outside of a parameter's range is cut off and
the rest shared out again. Where none is given a parameter is uniform in its own scale (linear or log).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from paretune.errors import InputError, is_number, nearest
from paretune.search._space.numerals import NUMBER

Array = NDArray[np.float64]

AUTO = "auto"
"""In the place of a prior or of weights: fitted from earlier studies in the same storage, when a study begins."""
WITHIN = 1.96
"""Standard deviations on either side that hold 95 % of a normal distribution."""


class Prior(ABC):
    """A distribution over the values of a parameter."""

    @abstractmethod
    def cdf(self, values: Array) -> Array:
        """Return the share of the distribution that lies below each value."""

    @abstractmethod
    def ppf(self, shares: Array) -> Array:
        """Return the value below which each share lies: the inverse of `cdf`."""

    @abstractmethod
    def pdf(self, values: Array) -> Array:
        """Return the density at each value."""


@final
@dataclass(frozen=True)
class Normal(Prior):
    """A normal distribution.

    >>> Normal(0.5, 0.1).cdf(np.array([0.5])).tolist()
    [0.5]
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        _finite("Normal", mean=self.mean, std=self.std)
        _positive("Normal", std=self.std)

    def cdf(self, values: Array) -> Array:
        """Return the share below."""
        return np.asarray(special.ndtr((values - self.mean) / self.std))

    def ppf(self, shares: Array) -> Array:
        """Return the value below which the share lies."""
        return np.asarray(self.mean + self.std * special.ndtri(shares))

    def pdf(self, values: Array) -> Array:
        """Return the density."""
        z = (values - self.mean) / self.std
        return np.asarray(np.exp(-0.5 * z * z) / (self.std * math.sqrt(2 * math.pi)))


@final
@dataclass(frozen=True)
class LogNormal(Prior):
    """A distribution whose logarithm is normal; half of it lies below `median`.

    spread: standard deviation of the natural logarithm; log(10) / 1.96 holds 95 % within a factor of ten.
    """

    median: float
    spread: float

    def __post_init__(self) -> None:
        _finite("LogNormal", median=self.median, spread=self.spread)
        _positive("LogNormal", median=self.median, spread=self.spread)

    def _normal(self) -> Normal:
        return Normal(math.log(self.median), self.spread)

    def cdf(self, values: Array) -> Array:
        """Return the share below; nothing lies below zero."""
        with np.errstate(divide="ignore"):
            return self._normal().cdf(np.log(np.maximum(values, 0.0)))

    def ppf(self, shares: Array) -> Array:
        """Return the value below which the share lies."""
        return np.asarray(np.exp(self._normal().ppf(shares)))

    def pdf(self, values: Array) -> Array:
        """Return the density, zero at zero and below."""
        above = np.maximum(values, 1e-300)
        return np.where(values > 0, self._normal().pdf(np.log(above)) / above, 0.0)


@final
@dataclass(frozen=True)
class Beta(Prior):
    """A beta distribution stretched over [low, high], which a parameter fills in with its own range."""

    a: float
    b: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _finite("Beta", a=self.a, b=self.b, low=self.low, high=self.high)
        _positive("Beta", a=self.a, b=self.b)
        if self.low >= self.high:
            raise InputError(f"prior Beta: low={self.low:g} must be below high={self.high:g}")

    def _scaled(self, values: Array) -> Array:
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)

    def cdf(self, values: Array) -> Array:
        """Return the share below."""
        return np.asarray(special.betainc(self.a, self.b, self._scaled(values)))

    def ppf(self, shares: Array) -> Array:
        """Return the value below which the share lies."""
        return np.asarray(self.low + (self.high - self.low) * special.betaincinv(self.a, self.b, shares))

    def pdf(self, values: Array) -> Array:
        """Return the density; at the ends it is that of a point just inside."""
        x = np.clip(self._scaled(values), 1e-12, 1 - 1e-12)
        log = special.xlogy(self.a - 1, x) + special.xlog1py(self.b - 1, -x) - special.betaln(self.a, self.b)
        return np.asarray(np.exp(log) / (self.high - self.low))


@final
@dataclass(frozen=True)
class About:
    """A guess: most of the belief lies near a value; what it becomes depends on the parameter."""

    value: float
    within: str | float | None = None

    def __post_init__(self) -> None:
        _finite("about", value=self.value)
        if self.within is not None:
            self._width()

    def _width(self) -> tuple[bool, float]:
        """Return whether `within` is a factor, and how large it is."""
        if isinstance(self.within, str):
            match = re.fullmatch(rf"\s*({NUMBER})\s*x\s*", self.within, re.IGNORECASE)
            if match and float(match[1]) > 1:
                return True, float(match[1])
        elif is_number(self.within) and self.within is not None and 0 < self.within < math.inf:
            return False, float(self.within)
        raise InputError(
            f"prior about {self.value:g}: within={self.within!r} must be a factor above 1, as '10x', or a "
            "distance above 0, as 0.1: 95 % of the belief lies that near"
        )

    def resolve(self, low: float, high: float, log: bool) -> Prior:
        """Return the distribution over [low, high]. Without `within` 95 % lie within a quarter of the range."""
        if self.within is None:
            factor, width = log, (high / low) ** 0.25 if log else (high - low) / 4
        else:
            factor, width = self._width()
        if factor and self.value <= 0:
            raise InputError(f"prior about {self.value:g}: a factor ({self.within}) needs a value above 0")
        return LogNormal(self.value, math.log(width) / WITHIN) if factor else Normal(self.value, width / WITHIN)


def about(value: float, within: str | float | None = None) -> About:
    """Return a prior that expects a parameter near `value`.

    within: how near, 95 % of the belief: a factor ("10x") or a distance (0.1); None takes a quarter of the range.

    >>> about(3e-4, within="10x").resolve(1e-5, 1e-1, log=True).cdf(np.array([3e-4, 3e-3])).round(3).tolist()
    [0.5, 0.975]
    """
    return About(value, within)


def read_prior(given: Any, where: str) -> Prior | About | str | None:
    """Return the prior that a file writes: {normal: [0.5, 0.1]}, {about: 3e-4, within: 10x}, auto."""
    if given is None or given == AUTO or isinstance(given, Prior | About):
        return given  # type: ignore[no-any-return]
    kinds: dict[str, Any] = {"normal": Normal, "lognormal": LogNormal, "beta": Beta}
    try:
        if isinstance(given, Mapping) and "about" in given and set(given) <= {"about", "within"}:
            return About(given["about"], given.get("within"))
        if isinstance(given, Mapping) and len(given) == 1:
            (kind, values), *_ = given.items()
            count = (2, 4) if kind == "beta" else (2,)
            if kind in kinds and isinstance(values, list | tuple) and len(values) in count:
                return kinds[kind](*values)  # type: ignore[no-any-return]
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    written = next(iter(given), "") if isinstance(given, Mapping) else given
    raise InputError(
        f"{where}: prior: {given!r} is none.{nearest(str(written), [*kinds, 'about', AUTO])} Write {{about: 3e-4, "
        "within: 10x}, {normal: [mean, std]}, {lognormal: [median, spread]}, {beta: [a, b]} or auto"
    )


def _finite(kind: str, **values: Any) -> None:
    for name, value in values.items():
        if not is_number(value) or not math.isfinite(value):
            raise InputError(f"prior {kind}: {name}={value!r} must be a finite number")


def _positive(kind: str, **values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise InputError(f"prior {kind}: {name}={value:g} must be above 0")
