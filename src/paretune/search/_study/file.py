"""A study as a YAML file: the objective by its name, and what `minimize` takes, under the same names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from paretune.errors import InputError, check_whole, nearest
from paretune.recipe import numbers
from paretune.search._space.space import Space
from paretune.search._study.database import SQLITE
from paretune.search._study.goals import LOSS, LOSS_ALONE, Goals, goals_of
from paretune.search._study.limits import Limits, limits_of, seconds
from paretune.search._study.method import method_of
from paretune.search._study.objective import Objective
from paretune.search._study.plain import space_from_json
from paretune.search.samplers._base import Sampler
from paretune.search.samplers._grid import Grid

KEYS = (
    "name", "objective", "space", "forbid", "method", "budget", "storage", "workers", "seed", "folder", "timeout",
    "memory", "objectives", "constraints", "repeats", "recipe", "minimize",
)  # fmt: skip
Recipes = Callable[[Path, str], tuple[Objective, Space, Mapping[str, str]]]
"""(a recipe's file, what to minimise) -> its objective, the space of what it leaves open, its constraints."""
OF_RECIPE = ("objective", "space", "forbid", "objectives", "constraints")
"""What a recipe says itself."""


@final
@dataclass(frozen=True)
class Reference:
    """An objective by its name, path/to/file.py:function or package.module:function, found where it is called."""

    name: str

    @cached_property
    def function(self) -> Any:
        """The function itself."""
        from paretune.task import load_function

        return load_function(self.name, "objective", "objective")[0]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function(*args)

    def __reduce__(self) -> Any:
        return Reference, (self.name,)


@final
@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What a study's file says, checked."""

    name: str
    objective: Objective
    space: Space
    sampler: Sampler
    limits: Limits
    storage: str
    workers: int = 1
    seed: int = 0
    folder: Path | None = None
    timeout: float | str | None = None
    memory: int | None = None
    goals: Goals = LOSS_ALONE
    repeats: int = 1


def read_study(path: str | Path, recipes: Recipes | None = None) -> StudyFile:
    """Return the study that a file describes; what is wrong in it is an InputError with its line.

    recipes: reads the file that `recipe:` names in the place of an objective and a space.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"no file {path}.{nearest(path.name, siblings)}")
    try:
        content = numbers(yaml.safe_load(path.read_text(encoding="utf-8")))
        lines = _lines(yaml.compose(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a study is a mapping with {', '.join(KEYS[:6])}")
    for key in content:
        if key not in KEYS:
            raise InputError(
                f"{path}:{lines.get((str(key),), 1)}: no key '{key}'.{nearest(str(key), KEYS)} There are "
                f"{', '.join(KEYS)}"
            )
    for key in ("budget",) if "recipe" in content else ("objective", "space", "budget"):
        if content.get(key) is None:
            raise InputError(f"{path}: it needs {key}")
    try:
        return _checked(content, path, recipes)
    except InputError as error:
        told = str(error)
        at = next(
            (
                line
                for keys, line in sorted(lines.items(), key=lambda item: -len(item[0]))
                if _is_about(told, keys)
            ),
            1,
        )
        raise InputError(f"{path}:{at}: {told}") from error


def _checked(content: Mapping[str, Any], path: Path, recipes: Recipes | None) -> StudyFile:
    numbers: dict[str, Any] = {}
    for key, least in (("workers", 1), ("seed", 0), ("repeats", 1)):
        value = content.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{key}: {value!r} must be a whole number of at least {least}")
        numbers[key] = value
    name = str(content.get("name", path.stem))
    folder = content.get("folder", name if "recipe" in content else None)
    objective, space, goals = _searched(content, path, recipes)
    with _about("method"):
        sampler = method_of(content.get("method", "bohb"))
    with _about("budget"):
        limits = limits_of(content["budget"])
    if (timeout := content.get("timeout")) is not None:
        seconds(timeout, "timeout")
    with _about("memory"):
        check_whole("memory", content.get("memory"))
    storage = str(content.get("storage", f"{SQLITE}{name}.db"))
    if "://" not in storage:
        raise InputError(f"storage: '{storage}' must be a URL as sqlite:///study.db")
    if isinstance(sampler, Grid):
        with _about("method"):
            sampler.grid(space)
    return StudyFile(
        name=name,
        objective=objective,
        space=space,
        sampler=sampler,
        limits=limits,
        storage=_beside(path, storage),
        folder=None if folder is None else path.parent / str(folder),
        timeout=timeout,
        memory=content.get("memory"),
        goals=goals,
        **numbers,
    )


@contextmanager
def _about(key: str) -> Iterator[None]:
    """Let what is wrong in a part of the file begin with its key, so that its line is found."""
    try:
        yield
    except InputError as error:
        if str(error).startswith((f"{key}:", f"{key}=", "forbid:")):
            raise
        raise InputError(f"{key}: {error}") from error


def _searched(content: Mapping[str, Any], path: Path, recipes: Recipes | None) -> tuple[Objective, Space, Goals]:
    """Return what is evaluated, over which space, and what is asked of it."""
    if "recipe" not in content:
        if "minimize" in content:
            raise InputError("minimize: says what to search for in a `recipe:`; an objective returns its own loss")
        with _about("space"):
            space = space_from_json(content["space"], forbid=content.get("forbid") or ())
        goals = goals_of(content.get("objectives", LOSS), content.get("constraints"))
        return Reference(_reference(content["objective"], path)), space, goals
    for key in OF_RECIPE:
        if key in content:
            raise InputError(f"{key}: a `recipe:` says it itself; leave it out here, or write it there")
    if content.get("repeats", 1) != 1:
        raise InputError(
            "repeats: a recipe's runs all have the recipe's seed, and come out the same; leave it out"
        )
    if recipes is None or not isinstance(content["recipe"], str):
        raise InputError(f"recipe: {content['recipe']!r} must be the file of a recipe")
    objective, space, constraints = recipes(path.parent / content["recipe"], str(content.get("minimize", "auto")))
    return objective, space, goals_of(LOSS, constraints)


def _reference(given: Any, path: Path) -> str:
    if not isinstance(given, str):
        raise InputError(f"objective: {given!r} must be a text as mypackage.train:objective")
    where, _, function = given.rpartition(":")
    # beside the file, whatever folder the command is run in
    return f"{(path.parent / where).resolve()}:{function}" if where.endswith(".py") else given


def _beside(path: Path, storage: str) -> str:
    """Return an URL whose file, where it is one without a folder of its own, lies beside the study's."""
    if not storage.startswith(SQLITE):
        return storage
    return f"{SQLITE}{(path.parent / storage.removeprefix(SQLITE)).resolve()}"


def _lines(node: Any, keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Return the line of every key of the first three levels, by the keys that lead to it."""
    found: dict[tuple[str, ...], int] = {}
    for key, value in getattr(node, "value", ()) if type(node).__name__ == "MappingNode" else ():
        place = (*keys, str(key.value))
        if place in found:
            raise InputError(
                f"{'.'.join(place)} is there twice, in line {found[place]} and {key.start_mark.line + 1}"
            )
        found[place] = key.start_mark.line + 1
        if len(place) < 3:
            found |= _lines(value, place)
    return found


def _is_about(told: str, keys: tuple[str, ...]) -> bool:
    """Tell whether an error begins with these keys: `space: lr: Float: ...`."""
    return told.startswith("".join(f"{key}: " for key in keys)) or (
        len(keys) == 1 and told.startswith(f"{keys[0]}=")
    )
