"""A JSON Schema of recipes, for editors: made from the very step classes, so that it cannot tell otherwise.

Types come from the fields' annotations, bounds from `Range`, descriptions from the docstring beneath each field,
names of methods (scores, losses, calibrations) from the registries. What a schema cannot say (one field's bound
by another's value, graph steps last) `read_recipe` checks.

`python -m paretune.report._schema > docs/schema/recipe.schema.json` writes it again; a test compares the two.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import sys
import textwrap
import typing
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from paretune.methods import FAMILIES, registry
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Constraints, Range
from paretune.target import RUNTIMES, Target

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(steps: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe file with these steps: name -> class; all by default."""
    found = dict(sorted((registry("steps") if steps is None else steps).items()))
    return {
        "$schema": DRAFT,
        "title": "paretune recipe",
        "description": "Steps that make a trained model small and fast, in order, under constraints.",
        "type": "object",
        "required": ["steps"],
        "additionalProperties": False,
        "properties": {
            "task": {
                "type": "string",
                "pattern": ":",
                "description": "What makes the task: path/to/file.py:make_task or package.module:make_task.",
            },
            "target": _target(),
            "steps": {
                "type": "array",
                "minItems": 1,
                "description": "Steps on the model first, then steps on the exported graph (quantize.*).",
                "items": {"$ref": "#/$defs/step"},
            },
            "constraints": _constraints(),
            "seed": {"type": "integer", "minimum": 0, "default": 0, "description": "Fixes everything random."},
            "device": {"type": "string", "default": "cpu", "description": "cpu, cuda or mps."},
        },
        "$defs": {"step": _any_step(found), **{name: fields_schema(step) for name, step in found.items()}},
    }


def fields_schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a dataclass's fields as a recipe writes them."""
    hints = typing.get_type_hints(kind, include_extras=True)
    described = field_docs(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        schema = _typed(hints[field.name])
        if field.name in described:
            schema["description"] = described[field.name]
            _suggest_names(schema)
        if field.default is not dataclasses.MISSING:
            schema["default"] = json.loads(json.dumps(field.default))
        properties[field.name] = schema
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "additionalProperties": False,
        "properties": properties,
        **({"required": needed} if needed else {}),
    }


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring beneath each field of a class and its bases; the class itself has the last word."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # a class without source (object, one made at run time)
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for line, below in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and _is_text(below):
                text = ast.literal_eval(typing.cast(ast.Expr, below).value)
                docs[line.target.id] = " ".join(text.split())
    return docs


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def _typed(hint: Any) -> dict[str, Any]:
    """Return the schema of an annotation; a `Range` bounds every number in it."""
    from pydantic import TypeAdapter

    extras = getattr(hint, "__metadata__", ())
    plain = typing.get_args(hint)[0] if extras else hint
    schema: dict[str, Any] = TypeAdapter(plain).json_schema()
    for extra in extras:
        if isinstance(extra, Range):
            for part in (schema, *schema.get("anyOf", ())):
                if part.get("type") in ("number", "integer"):
                    part["exclusiveMinimum" if extra.low_open else "minimum"] = extra.low
                    if extra.high != math.inf:
                        part["exclusiveMaximum" if extra.high_open else "maximum"] = extra.high
    return schema


def _suggest_names(schema: dict[str, Any]) -> None:
    """Let an editor offer the names of a family where the description points to `paretune methods FAMILY`.

    Any other text stays valid: a third party's method is known only where it is installed.
    """
    for family in FAMILIES:
        if schema.get("type") == "string" and f"paretune methods {family}" in schema["description"]:
            del schema["type"]
            schema["anyOf"] = [{"enum": sorted(registry(family))}, {"type": "string"}]


def _any_step(steps: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of one entry of `steps`: a bare name, or a name with its fields."""
    schemas = {name: fields_schema(step) for name, step in steps.items()}
    bare = [name for name, schema in schemas.items() if "required" not in schema]
    named = {
        name: {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}], "description": schema["description"]}
        for name, schema in schemas.items()
    }
    return {
        "anyOf": [
            {"enum": bare},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": named,
            },
        ]
    }


def _target() -> dict[str, Any]:
    schema = fields_schema(Target)
    schema["properties"]["runtime"]["enum"] = list(RUNTIMES)
    for name in ("threads", "batch"):
        schema["properties"][name]["minimum"] = 1
    return schema


def _constraints() -> dict[str, Any]:
    schema = fields_schema(Constraints)
    amounts = {"max_latency": LATENCY_UNITS, "max_size": SIZE_UNITS}
    for name, field in schema["properties"].items():
        for part in field["anyOf"]:
            if part["type"] == "number":
                part["exclusiveMinimum" if name in amounts else "minimum"] = 0
            elif part["type"] == "string":
                part["pattern"] = rf"^\s*[0-9]*\.?[0-9]+([eE]-?[0-9]+)?\s*(x|{'|'.join(amounts[name])})?\s*$"
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(recipe_schema(), indent=2) + "\n")
