"""A recipe with values left open, `macs: {float: [0.2, 0.8]}`, and the recipes that fill them in.

What may be open is any value of a step, however deep (`losses: [{soft_labels: {temperature: {float: [1, 8]}}}]`),
and any argument of the task's function (`model: {width: {int: [16, 64]}}`). `{search: default}` takes the range
that the field itself says is sensible. A number that is written `budget` is filled in by methods with budgets.

An open value is called as `--set` calls it: `prune.channels.macs`, `model.width`; of steps with the same name, the
second is `distill_2`. Rules and conditions use these names.
"""

from __future__ import annotations

import json
import math
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import numpy as np

from paretune.errors import InputError, RecipeError, nearest
from paretune.methods import registry
from paretune.recipe import Range, Recipe, parse_recipe, read_plain
from paretune.search import Space
from paretune.search._study.plain import KINDS, space_from_json

OPEN = tuple(kind for kind in KINDS if kind != "constant")
BUDGET = "budget"
TRIED = 8
"""Recipes that are drawn and checked before a search begins."""
INWARDS = 0.05
"""Of a field's range: so far is an end moved in that the field itself does not allow."""
LOGARITHMIC = 100.0
"""A default range whose ends differ by this factor is searched on a logarithmic scale."""
FRACTIONS = ("macs", "params", "size")
"""Amounts to keep, which are fractions below 1: their default range is 0.1 to 0.9."""
Place = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class OpenRecipe:
    """A recipe's plain content, and what in it is open.

    The constructor draws a few recipes and checks them, so that a mistake is an error here, not of every run.
    """

    content: Mapping[str, Any]
    source: str
    """Where it comes from, for errors."""
    space: Space
    places: Mapping[str, Place] = field(repr=False)
    """Where each open value is, by name."""
    budgets: tuple[Place, ...] = field(repr=False)
    """Where the budget goes."""

    example: Recipe = field(init=False, repr=False)
    """One of the recipes: what all of them share is what it has."""

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        drawn = self.space.draws(lambda n: generator.random((n, len(self.space))))
        for _ in range(TRIED):
            object.__setattr__(self, "example", self.filled(next(drawn)[1], 1))
        if self.example.task is None:
            raise InputError(f"{self.source}: it names no task; write task: path/to/file.py:make_task")

    @property
    def changes_model(self) -> bool:
        """Whether the task's model is another one for each candidate."""
        return any(place[0] == "model" for place in self.places.values())

    @property
    def fixed(self) -> str:
        """A hash of what is not open."""
        content = _copied(self.content)
        for place in (*self.places.values(), *self.budgets):
            _put(content, place, None)
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def filled(self, config: Mapping[str, Any], budget: Any) -> Recipe:
        """Return the recipe of a configuration. budget: what stands for `budget`, where anything does."""
        content = _copied(self.content)
        for name, place in self.places.items():
            if name in config:
                _put(content, place, config[name])
            else:  # it is not active
                _drop(content, place)
        for place in self.budgets:
            _put(content, place, budget)
        return parse_recipe(content, source=self.source)

    def check_budgets(self, budgets: tuple[Any, ...]) -> None:
        """Raise an InputError where a method's budgets and the recipe's `budget` do not fit."""
        if len(budgets) > 1 and not self.budgets:
            raise InputError(
                f"{self.source}: the method runs candidates on budgets {', '.join(map(str, budgets))}, and "
                "nothing "
                "in the recipe says `budget`; write `distill: {epochs: budget}`, or take random, bayes or grid"
            )
        if self.budgets and budgets == (None,):
            at = ", ".join(_name(place) for place in self.budgets)
            raise InputError(
                f"{self.source}: {at} is `budget`, and the method has none; give a number, or take bohb"
            )


def read_open(path: str | Path) -> OpenRecipe:
    """Return the recipe of a file with what it leaves open; one that leaves nothing open is an InputError."""
    return open_recipe(read_plain(path), str(path))


def open_recipe(content: Any, source: str = "recipe") -> OpenRecipe:
    """Return the recipe of plain values with what it leaves open.

    >>> step = {"prune.channels": {"macs": {"float": [0.2, 0.8]}}}
    >>> made = open_recipe({"task": "net.py:task", "steps": [step]})
    >>> made.space.names, made.filled({"prune.channels.macs": 0.5}, None).steps[0].macs
    (('prune.channels.macs',), 0.5)
    """
    if not isinstance(content, Mapping):
        raise RecipeError(f"{source}: a recipe is a mapping with task and steps")
    found: dict[str, Any] = {}
    places: dict[str, Place] = {}
    budgets: list[Place] = []
    for place, name, value in _values(content):
        if value == BUDGET:
            budgets.append(place)
            continue
        if "search" in value:
            value = _default(value, place, f"{source}: {name}")
        found[name], places[name] = value, place
    if not found:
        raise InputError(
            f"{source} leaves nothing open; write a value as {{float: [0.2, 0.8]}}, {{int: [1, 8]}} or "
            "{categorical: [a, b]}, or run it: paretune run"
        )
    try:
        space = space_from_json(found, forbid=content.get("forbid") or ())
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    rest = {key: value for key, value in content.items() if key != "forbid"}
    return OpenRecipe(rest, source, space, places, tuple(budgets))


def _values(content: Mapping[str, Any]) -> Iterator[tuple[Place, str, Any]]:
    """Yield place, name and value of what is open in a recipe."""
    steps = content.get("steps")
    names = [_step(raw) for raw in steps] if isinstance(steps, list) else []
    again: Counter[str] = Counter()
    for index, (name, fields) in enumerate(names):
        again[name] += 1
        label = name if again[name] == 1 else f"{name}_{again[name]}"
        yield from _below(fields, ("steps", index, name), label)
    yield from _below(content.get("model"), ("model",), "model")


def _step(raw: Any) -> tuple[str, Any]:
    """Return a step's name and fields, as `- distill: {epochs: 8}` or a bare `- distill` has them."""
    if isinstance(raw, Mapping) and len(raw) == 1:
        ((name, fields),) = raw.items()
        return str(name), fields
    return str(raw), None


def _below(value: Any, place: Place, name: str) -> Iterator[tuple[Place, str, Any]]:
    if value == BUDGET or _is_open(value):
        yield place, name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _below(each, (*place, key), f"{name}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            named = isinstance(each, Mapping) and len(each) == 1 and not _is_open(each)  # `- soft_labels: {...}`
            yield from _below(each, (*place, index), name if named else f"{name}.at_{index + 1}")


def _is_open(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in (*OPEN, "search"))


def _default(value: Mapping[str, Any], place: Place, where: str) -> dict[str, Any]:
    """Return the range that a step's field says is sensible, as a file writes it, with what else `value` says."""
    if value["search"] != "default":
        raise InputError(f"{where}: search: {value['search']!r} must be `default`, the field's own range")
    more = {key: each for key, each in value.items() if key != "search"}
    kind = registry("steps").get(str(place[2])) if place[0] == "steps" and len(place) == 4 else None
    if kind is None:
        raise InputError(f"{where}: only a field of a step has a default range; give {{float: [low, high]}}")
    hints = typing.get_type_hints(kind, include_extras=True)
    if (name := str(place[3])) not in hints:
        raise InputError(f"{where}: {place[2]} has no field '{name}'.{nearest(name, hints)}")
    span = next((extra for extra in getattr(hints[name], "__metadata__", ()) if isinstance(extra, Range)), None)
    if span is not None and name in FRACTIONS:
        return {"float": [0.1, 0.9], **more}
    if span is None or span.high == math.inf:
        raise InputError(f"{where}: it has no range with two ends; give {{float: [low, high]}}")
    plain = typing.get_type_hints(kind)[name]
    return {**_spanned(span, whole=float not in (plain, *typing.get_args(plain))), **more}


def _spanned(span: Range, *, whole: bool) -> dict[str, Any]:
    if whole:
        low, high = math.ceil(span.low) + span.low_open, math.floor(span.high) - span.high_open
        return {"int": [low, high], **_logarithmic(low, high)}
    inwards = INWARDS * (span.high - span.low)
    ends = span.low + inwards * span.low_open, span.high - inwards * span.high_open
    return {"float": list(ends), **_logarithmic(*ends)}


def _logarithmic(low: float, high: float) -> dict[str, bool]:
    return {"log": True} if low > 0 and high / low >= LOGARITHMIC else {}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _put(content: Any, place: Place, value: Any) -> None:
    for part in place[:-1]:
        content = content[part]
    content[place[-1]] = value


def _drop(content: Any, place: Place) -> None:
    for part in place[:-1]:
        content = content[part]
    del content[place[-1]]


def _name(place: Place) -> str:
    return ".".join(str(part) for part in place if part != "steps" and not isinstance(part, int))
