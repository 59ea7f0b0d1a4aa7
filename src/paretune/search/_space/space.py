"""A space: named hyperparameters, some active only where a condition holds, some combinations forbidden.

A configuration is the values of its active parameters, and nothing else: two of them are the same where those are.
Samplers see it as a row of numbers in [0, 1], one column for each parameter, NaN where it is not active.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from paretune.errors import InputError, nearest
from paretune.search._space.parameters import Categorical, Constant, Ordered, Parameter
from paretune.search._space.predicates import Predicate, predicate

Array = NDArray[np.float64]
Config = dict[str, Any]

TRIED = 10_000
"""Draws that a space is tried with: forbidden rules must leave one of them."""
AT_ONCE = 16
"""Draws at a time where rules may forbid some of them."""


@final
@dataclass(frozen=True)
class Space:
    """Hyperparameters by name.

    forbid: rules that no configuration makes true, texts or functions of parameters; one about a parameter that is
    not active forbids nothing.
    """

    parameters: Mapping[str, Parameter]
    forbid: Sequence[str | Predicate | Callable[..., bool]] = ()
    names: tuple[str, ...] = field(init=False, repr=False)
    """Names of the parameters, parents before children: the columns of rows."""
    rules: tuple[Predicate, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, Mapping) or not self.parameters:
            raise InputError("a space needs parameters: Space({'lr': Float(1e-5, 1e-1, log=True)})")
        object.__setattr__(self, "parameters", dict(self.parameters))
        for name, parameter in self.parameters.items():
            if not isinstance(name, str) or not name:
                raise InputError(f"a parameter's name must be a text, not {name!r}")
            if not isinstance(parameter, Parameter):
                raise InputError(
                    f"{name}: {parameter!r} is no parameter; use Float, Int, Categorical, Ordered, Constant"
                )
        given = [self.forbid] if isinstance(self.forbid, str) or callable(self.forbid) else list(self.forbid)
        object.__setattr__(self, "rules", tuple(predicate(rule) for rule in given))
        for rule in self.rules:
            self._check_names(rule, f"forbid: '{rule.text}'")
        object.__setattr__(self, "names", self._ordered())
        if self.rules or any(parameter.when for parameter in self.parameters.values()):
            self._check_draws()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]

    @property
    def count(self) -> float:
        """How many configurations there are at most, infinity where a parameter is continuous."""
        return float(np.prod([float(parameter.count) for parameter in self.parameters.values()]))

    @property
    def informed(self) -> bool:
        """Whether any parameter has a prior."""
        return any(parameter.informed for parameter in self.parameters.values())

    def config(self, row: Array) -> Config:
        """Return the configuration that a row stands for; columns of inactive parameters are not looked at."""
        found: Config = {}
        for name, unit in zip(self.names, row, strict=True):
            parameter = self.parameters[name]
            if parameter.when is None or parameter.when(found):
                found[name] = parameter.decode(float(unit))
        return found

    def row(self, config: Mapping[str, Any]) -> Array:
        """Return a configuration as numbers in [0, 1], NaN where inactive; one that is none is an InputError."""
        for name in config:
            if name not in self.parameters:
                raise InputError(f"'{name}' is no parameter of the space.{nearest(name, self.names)}")
        row, seen = np.full(len(self.names), np.nan), Config()
        for column, name in enumerate(self.names):
            parameter = self.parameters[name]
            active = parameter.when is None or parameter.when(seen)
            if active and name not in config and not isinstance(parameter, Constant):
                raise InputError(f"'{name}' has no value")
            if not active:
                if name in config:
                    assert parameter.when is not None
                    raise InputError(f"'{name}' has a value but is active only where {parameter.when.text}")
                continue
            try:
                row[column] = parameter.encode(config.get(name, getattr(parameter, "value", None)))
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            seen[name] = config.get(name, getattr(parameter, "value", None))
        for rule in self.rules:
            if rule(seen):
                raise InputError(f"{dict(config)!r} is forbidden by '{rule.text}'")
        return row

    def rows(self, shares: Array) -> Array:
        """Return draws from the priors, NaN where inactive; shares: uniform numbers in [0, 1), (n, parameters)."""
        drawn = np.stack(
            [self.parameters[name].draw(shares[:, column]) for column, name in enumerate(self.names)], axis=1
        )
        return self.masked(drawn)

    def masked(self, rows: Array) -> Array:
        """Return rows with NaN where a parameter is not active, in place."""
        conditional = [name for name in self.names if self.parameters[name].when is not None]
        if conditional:
            for row in rows:
                active = self.config(row)
                for column, name in enumerate(self.names):
                    if name not in active:
                        row[column] = np.nan
        return rows

    def allowed(self, config: Mapping[str, Any]) -> bool:
        """Tell whether no rule forbids a configuration."""
        return not any(rule(config) for rule in self.rules)

    def draws(self, shares: Callable[[int], Array], *, uniform: bool = False) -> Iterator[tuple[Array, Config]]:
        """Return rows and configurations that are allowed, without end, from a source of uniform numbers.

        shares: returns (n, parameters) uniform numbers for n. uniform: priors are left aside.
        """
        while True:
            drawn = shares(AT_ONCE if self.rules else 1)
            for row in self.masked(drawn) if uniform else self.rows(drawn):
                config = self.config(row)
                if self.allowed(config):
                    yield row, config

    def density(self, rows: Array) -> Array:
        """Return the prior's density at rows, (n,): the product over the active parameters."""
        found = np.ones(len(rows))
        for column, name in enumerate(self.names):
            active = ~np.isnan(rows[:, column])
            found[active] *= self.parameters[name].density(rows[active, column])
        return found

    def _ordered(self) -> tuple[str, ...]:
        """Return the names, parents before children, otherwise as they were given; a cycle is an InputError."""
        left: list[str] = list(self.parameters)
        done: list[str] = []
        for name in left:
            if (found := self.parameters[name].when) is not None:
                self._check_names(found, f"{name}: when '{found.text}'")
        while left:
            ready = [name for name in left if self._parents(name) <= set(done)]
            if not ready:
                raise InputError(f"conditions go round in a circle: {' needs '.join(self._circle(left))}")
            done.append(ready[0])
            left.remove(ready[0])
        return tuple(done)

    def _parents(self, name: str) -> frozenset[str]:
        found = self.parameters[name].when
        return frozenset() if found is None else found.names

    def _circle(self, left: list[str]) -> list[str]:
        path = [left[0]]
        while path[-1] not in path[:-1]:
            path.append(next(name for name in sorted(self._parents(path[-1])) if name in left))
        return path[path.index(path[-1]) :]

    def _check_names(self, found: Predicate, where: str) -> None:
        for name in sorted(found.names):
            if name not in self.parameters:
                raise InputError(f"{where}: there is no parameter '{name}'.{nearest(name, self.parameters)}")
        for name in sorted(found.above):
            parameter = self.parameters[name]
            texts = isinstance(parameter, Categorical | Ordered) and [
                choice for choice in parameter.choices if isinstance(choice, str)
            ]
            if texts:
                raise InputError(
                    f"{where}: {name} has texts for values, which < and > compare by the alphabet; name those "
                    f"that are meant: {name} in {texts[:2]!r}"
                )
        for name, value in found.equal:
            parameter = self.parameters[name]
            if isinstance(parameter, Categorical | Ordered):
                try:
                    parameter.encode(value)
                except InputError as error:
                    raise InputError(f"{where}: {name}: {error}") from error

    def _check_draws(self) -> None:
        """Raise an InputError where rules leave next to nothing, or a parameter is never active."""
        generator = np.random.default_rng(0)
        seen: set[str] = set()
        left = 0
        for _ in range(TRIED // 100):
            for row in self.rows(generator.random((100, len(self.names)))):
                config = self.config(row)
                seen |= set(config)
                left += self.allowed(config)
            if left and len(seen) == len(self.names):
                return
        if not left:
            worst = ", ".join(f"'{rule.text}'" for rule in self.rules)
            raise InputError(f"forbid: {worst} leave not one of {TRIED:,} draws from the space; loosen them")
        for name in self.names:
            if name not in seen:
                found = self.parameters[name].when
                assert found is not None
                raise InputError(f"{name}: never active: '{found.text}' held in none of {TRIED:,} draws")


def key(config: Mapping[str, Any]) -> str:
    """Return what tells a configuration from others: its active values, whatever their order.

    >>> key({"b": 1, "a": 0.5}) == key({"a": 0.5, "b": 1})
    True
    """
    return json.dumps(dict(config), sort_keys=True, default=repr)
