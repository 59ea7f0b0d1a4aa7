"""A name -> its method: one registry for recipes, the command line, and third parties.

A family is a package whose `__all__` lists its methods; a third party adds to it through the entry-point
group `paretune.FAMILY`. Nothing is imported until a family is asked for.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from paretune.errors import InputError, nearest

ARXIV = r"arXiv:[0-9.]*[0-9]"
CITATION = re.compile(rf"[A-Z][\w'-]+(?: et al\.|,| and ).*{ARXIV}")
CITED = re.compile(rf".*?{ARXIV}(?:, sections? [0-9.]*[0-9])?(?:; .*?{ARXIV})*")

FAMILIES: dict[str, tuple[str, ...]] = {
    "steps": ("paretune.train", "paretune.prune", "paretune.distill", "paretune.quantize"),
    "scores": ("paretune.prune.scores",),
    "losses": ("paretune.distill.losses",),
    "calibrations": ("paretune.quantize.calibration",),
    "samplers": ("paretune.search.samplers",),
}
"""Each family and the packages whose public names are its methods."""
CLASSES = ("steps", "samplers")
"""Families whose methods are classes with a `name`, by which they are found."""


@dataclass(frozen=True)
class Method:
    """One method of a family, as `paretune methods` shows it."""

    family: str
    name: str
    summary: str
    """The first line of its docstring."""
    source: str
    """The paper or document that its module names, empty where it names none."""
    defaults: dict[str, Any]
    """Its parameters that have a default and that a user sets; tensors are given to it by who calls it."""


def find(family: str, name: str) -> Any:
    """Return the method of that name; an unknown name is an InputError with the nearest right one."""
    methods = registry(family)
    if name not in methods:
        raise InputError(
            f"no method '{name}' in {family}.{nearest(name, methods)} "
            f"`paretune methods {family}` lists all {len(methods)}."
        )
    return methods[name]


@cache
def registry(family: str) -> dict[str, Any]:
    """Return every method of a family by name, ours first, then those of installed entry points."""
    if family not in FAMILIES:
        raise InputError(f"no family '{family}' of methods.{nearest(family, FAMILIES)}")
    methods: dict[str, Any] = {}
    for package in FAMILIES[family]:
        module = import_module(package)
        for public in module.__all__:
            method = getattr(module, public)
            if family not in CLASSES:
                methods[public] = method
            elif inspect.isclass(method) and isinstance(name := getattr(method, "name", None), str):
                methods[name] = method
    for point in entry_points(group=f"paretune.{family}"):
        methods.setdefault(point.name, point.load())
    return methods


def describe(family: str) -> list[Method]:
    """Return what `paretune methods` prints about a family: name, summary, source, defaults."""
    return [_describe(family, name, method) for name, method in registry(family).items()]


def _describe(family: str, name: str, method: Any) -> Method:
    module_doc = inspect.getdoc(inspect.getmodule(method)) or ""
    doc = inspect.getdoc(method) or ""
    return Method(
        family=family,
        name=name,
        summary=doc.split("\n", 1)[0],
        source=_source(module_doc + "\n" + doc),
        defaults={
            key: parameter.default
            for key, parameter in inspect.signature(method).parameters.items()
            if parameter.default is not inspect.Parameter.empty and "Tensor" not in str(parameter.annotation)
        },
    )


def _source(text: str) -> str:
    """Return the paper that a docstring names: what is behind `Source:`, or a paragraph that begins with one."""
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        behind = line.partition("Source: ")[2]
        if found := CITED.match(behind or (line if CITATION.match(line) else "")):
            return found.group(0)
        if behind:
            return behind.split(". ")[0].rstrip(".")
    return ""
