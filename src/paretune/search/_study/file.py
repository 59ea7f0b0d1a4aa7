"""A study as a YAML file: the objective by its name, and what `minimize` takes, under the same names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from paretune.errors import InputError, nearest
from paretune.search._space.space import Space
from paretune.search._study.database import SQLITE
from paretune.search._study.limits import Limits, limits_of
from paretune.search._study.method import method_of
from paretune.search._study.plain import numbers, space_from_json
from paretune.search.samplers._base import Sampler

KEYS = (
    "name", "objective", "space", "forbid", "method", "budget", "storage", "workers", "seed", "folder", "timeout",
    "memory",
)  # fmt: skip


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
    objective: Reference
    space: Space
    sampler: Sampler
    limits: Limits
    storage: str
    workers: int = 1
    seed: int = 0
    folder: Path | None = None
    timeout: float | str | None = None
    memory: int | None = None


def read_study(path: str | Path) -> StudyFile:
    """Return the study that a file describes; what is wrong in it is an InputError with its line."""
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
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a study is a mapping with {', '.join(KEYS[:6])}")
    for key in content:
        if key not in KEYS:
            raise InputError(
                f"{path}:{lines.get((str(key),), 1)}: no key '{key}'.{nearest(str(key), KEYS)} There are "
                f"{', '.join(KEYS)}"
            )
    for key in ("objective", "space", "budget"):
        if content.get(key) is None:
            raise InputError(f"{path}: it needs {key}")
    try:
        return _checked(content, path)
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


def _checked(content: Mapping[str, Any], path: Path) -> StudyFile:
    reference = content["objective"]
    if not isinstance(reference, str):
        raise InputError(f"objective: {reference!r} must be a text as mypackage.train:objective")
    where, _, function = reference.rpartition(":")
    if where.endswith(".py"):  # beside the file, whatever folder the command is run in
        reference = f"{(path.parent / where).resolve()}:{function}"
    numbers: dict[str, Any] = {}
    for key, least in (("workers", 1), ("seed", 0)):
        value = content.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{key}: {value!r} must be a whole number of at least {least}")
        numbers[key] = value
    name = str(content.get("name", path.stem))
    folder = content.get("folder")
    return StudyFile(
        name=name,
        objective=Reference(reference),
        space=space_from_json(content["space"], forbid=content.get("forbid") or ()),
        sampler=method_of(content.get("method", "bohb")),
        limits=limits_of(content["budget"]),
        storage=_beside(path, str(content.get("storage", f"{SQLITE}{name}.db"))),
        folder=None if folder is None else path.parent / str(folder),
        timeout=content.get("timeout"),
        memory=content.get("memory"),
        **numbers,
    )


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
        found[place] = key.start_mark.line + 1
        if len(place) < 3:
            found |= _lines(value, place)
    return found


def _is_about(told: str, keys: tuple[str, ...]) -> bool:
    """Tell whether an error begins with these keys: `space: lr: Float: ...`."""
    return told.startswith("".join(f"{key}: " for key in keys)) or (
        len(keys) == 1 and told.startswith(f"{keys[0]}=")
    )
