"""The options of a recipe step, made from its dataclass: the same names, ranges and defaults as in a recipe."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

import click

from paretune.cli._screen import Choice, plain
from paretune.methods import FAMILIES, registry
from paretune.recipe import Range, Step


@dataclasses.dataclass(frozen=True)
class Hint:
    """A field's annotation, taken apart."""

    kinds: tuple[Any, ...]
    """The types of a union without None: (float,), (int, str), (tuple,)."""
    choices: tuple[str, ...]
    """The values of a Literal, as they are typed."""
    range: Range | None
    optional: bool


def step_options(step: type[Step], taken: Collection[str]) -> list[click.Option]:
    """Return one option per field; a field whose name is `taken` gets the step's name before it."""
    hints, words = typing.get_type_hints(step, include_extras=True), field_docs(step)
    prefix = step.name.rpartition(".")[2]
    return [
        _option(
            field,
            take_apart(hints[field.name]),
            words.get(field.name, ""),
            f"{prefix}_{field.name}" if field.name in taken else field.name,
        )
        for field in dataclasses.fields(step)  # type: ignore[arg-type]
    ]


def given_fields(step: type[Step], options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that were given on the command line, as a recipe would hold them."""
    hints = typing.get_type_hints(step, include_extras=True)
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        value = options.get(_key(name))
        if value is None or value == ():
            continue
        fields[name] = read_value(value, take_apart(hint))
    return fields


def read_value(value: Any, hint: Hint) -> Any:
    """Read an option's text as the same YAML that a recipe would hold; several values make one list.

    >>> read_value("1e-3", Hint((float,), (), None, False))  # YAML 1.1 alone takes this for text
    0.001
    """
    if isinstance(value, tuple):
        items = [read_value(item, dataclasses.replace(hint, kinds=(object,))) for item in value]
        return [part for item in items for part in (item if isinstance(item, list) else [item])]
    if not isinstance(value, str) or hint.kinds == (str,):
        return value
    import yaml

    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(read, str) and float in hint.kinds:
        try:
            return float(read)
        except ValueError:
            return read
    return read


def take_apart(annotation: Any) -> Hint:
    """Return what an annotation says: its types, its choices, its range, and whether None is allowed."""
    extras = getattr(annotation, "__metadata__", ())
    span = next((extra for extra in extras if isinstance(extra, Range)), None)
    bare = typing.get_args(annotation)[0] if extras else annotation
    union = typing.get_origin(bare) in (typing.Union, types.UnionType)
    members = typing.get_args(bare) if union else (bare,)
    parts = [take_apart(m) for m in members if m is not types.NoneType] if union else []
    if parts:
        closed = all(part.choices for part in parts)
        choices = tuple(choice for part in parts for choice in part.choices) if closed else ()
        kinds = tuple(kind for part in parts for kind in part.kinds)
        span = span or next((part.range for part in parts if part.range), None)
        return Hint(kinds, choices, span, types.NoneType in members)
    if typing.get_origin(bare) is typing.Literal:
        values = typing.get_args(bare)
        return Hint(tuple(dict.fromkeys(map(type, values))), tuple(map(str, values)), span, False)
    return Hint((typing.get_origin(bare) or bare,), (), span, False)


def field_docs(kind: type) -> dict[str, str]:
    """Return the text that stands beneath each field of a class and its bases, on one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_beneath(base)
    return docs


def _docs_beneath(kind: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # no source: a class made at run time
        return {}
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _option(field: dataclasses.Field[Any], hint: Hint, words: str, name: str) -> click.Option:
    dashed = name.replace("_", "-")
    described = " ".join(part for part in (words, _facts(field, hint)) if part)
    if hint.kinds == (bool,):
        return click.Option([f"--{dashed}/--no-{dashed}", _key(field.name)], default=None, help=described)
    return click.Option(
        [f"--{dashed}", _key(field.name)],
        type=Choice(list(hint.choices)) if hint.choices else str,
        multiple=bool({list, tuple} & set(hint.kinds)),
        metavar=_metavar(hint),
        help=described,
        shell_complete=_completions(field.name, hint),
    )


def _completions(name: str, hint: Hint) -> Callable[..., list[str]] | None:
    """Complete the names of a family where a field takes one: `score` those of `scores`."""
    if str not in hint.kinds or hint.choices or f"{name}s" not in FAMILIES:
        return None
    return lambda ctx, param, incomplete: [n for n in registry(f"{name}s") if n.startswith(incomplete)]


def _facts(field: dataclasses.Field[Any], hint: Hint) -> str:
    facts = [f"default: {_shown(field)}"] if _shown(field) else []
    return f"[{'; '.join([*facts, *([str(hint.range)] if hint.range else [])])}]" if facts or hint.range else ""


def _shown(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else value
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, list | tuple | dict):
        return str(plain(value)) if value else "none"
    return {None: "none", True: "yes", False: "no"}.get(value, str(value)) if not _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metavar(hint: Hint) -> str:
    if hint.choices:  # written out, for click would show `channels_last` with the dash that it also takes
        return f"[{'|'.join(hint.choices)}]"
    names = {
        bool: "BOOLEAN",
        int: "INTEGER",
        float: "NUMBER",
        str: "TEXT",
        tuple: "VALUE",
        list: "VALUE",
        dict: "MAPPING",
    }
    return "|".join(dict.fromkeys(names.get(kind, "VALUE") for kind in hint.kinds))


def _key(name: str) -> str:
    """Return the name under which click keeps a field, apart from the command's own options."""
    return f"field_{name}"
