"""The JSON Schemas in the docs: the recipe's is what the step classes say, the summary's is what runs write."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from paretune.errors import InputError
from paretune.methods import registry
from paretune.recipe import Range, Recipe, Step
from paretune.report._schema import field_docs, fields_schema, recipe_schema
from paretune.report._summary import CANDIDATE_FIELDS, PARTS, SUMMARY_FIELDS, read_summary

SCHEMAS = Path(__file__).parents[1] / "docs" / "schema"

METRIC = {"name": "accuracy", "value": 0.98, "low": 0.97, "high": 0.99, "n": 899}
LATENCY = {"median_ms": 2.0, "p99_ms": 2.5, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "verdict": None}
BASELINE = {
    "name": "baseline", "recipe": {"steps": []}, "certificate": "artifacts/baseline.certificate.json",
    "metric": METRIC, "latency": LATENCY, "bytes": 4_000_000, "params": 1_000_000, "macs": 38_000_000,
    "peak_memory_bytes": 20_000_000, "load_ms": 5.0, "train_seconds": 0.0, "artifact": "artifacts/baseline.onnx",
}  # fmt: skip
SMALL = BASELINE | {
    "name": "small",
    "latency": LATENCY | {"ratio": 0.2, "ratio_low": 0.19, "ratio_high": 0.21, "verdict": "faster"},
}
SUMMARY = {
    "schema": 1, "task": "task.py:make_task", "target": {"runtime": "onnxruntime", "threads": 1, "batch": 1},
    "candidates": [BASELINE, SMALL], "best": "small",
}  # fmt: skip


def schema(name: str) -> Draft202012Validator:
    content = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def test_the_recipe_schema_in_the_docs_is_what_the_step_classes_say() -> None:
    written = json.loads((SCHEMAS / "recipe.schema.json").read_text())
    assert written == recipe_schema(), (
        "run `python -m paretune.report._schema > docs/schema/recipe.schema.json` and commit the file"
    )


def test_the_recipe_schema_names_every_registered_step_and_each_of_its_fields() -> None:
    content = recipe_schema()
    for name, step in registry("steps").items():
        assert list(content["$defs"][name]["properties"]) == [field.name for field in fields(step)]
        assert all("description" in field for field in content["$defs"][name]["properties"].values()), name


@pytest.mark.parametrize("name", sorted(registry("steps")))
def test_a_recipe_as_paretune_writes_it_fits_the_recipe_schema(name: str) -> None:
    needed = recipe_schema()["$defs"][name].get("required", [])
    if needed:
        pytest.skip(f"{name} has no defaults for {', '.join(needed)}")
    step = registry("steps")[name]()
    written = json.loads(json.dumps(Recipe(steps=(step,), task="task.py:make_task").to_dict()))
    schema("recipe").validate(written)


@pytest.mark.parametrize("path", ["examples/recipe.yaml", "src/paretune/zoo/demo.yaml"])
def test_the_recipes_that_are_shipped_fit_the_recipe_schema(path: str) -> None:
    schema("recipe").validate(yaml.safe_load((SCHEMAS.parents[1] / path).read_text()))


@dataclass(frozen=True, kw_only=True)
class Shave(Step):
    """Shave a model."""

    name: ClassVar[str] = "test.shave"

    depth: Annotated[float, Range(0, 1, low_open=True)]
    """How deep,
    as a fraction."""
    side: Literal["left", "right"] = "left"
    """Which side first."""
    score: str = "l1"
    """A name that `paretune methods scores` lists."""
    rounds: Annotated[int | None, Range(1, 9)] = None


def test_a_field_becomes_its_type_bounds_description_and_default() -> None:
    made = fields_schema(Shave)
    assert made["required"] == ["depth"]
    assert made["properties"]["depth"] == {
        "type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "How deep, as a fraction.",
    }  # fmt: skip
    assert made["properties"]["side"] == {
        "type": "string", "enum": ["left", "right"], "description": "Which side first.", "default": "left",
    }  # fmt: skip
    assert made["properties"]["rounds"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}], "default": None,
    }  # fmt: skip
    offered, free = made["properties"]["score"]["anyOf"]
    assert offered["enum"] == sorted(registry("scores"))
    assert free == {"type": "string"}


def test_the_docstring_of_a_class_field_overrides_that_of_its_base() -> None:
    class Deeper(Shave):
        depth: float = 0.5
        """Deeper still."""

    assert field_docs(Deeper)["depth"] == "Deeper still."
    assert field_docs(Deeper)["side"] == "Which side first."


@pytest.mark.parametrize(
    ("recipe", "fits"),
    [
        ({"steps": [{"test.shave": {"depth": 0.5}}]}, True),
        (
            {"steps": [{"test.shave": {"depth": 0.5}}], "constraints": {"max_latency": "0.5x", "max_size": 3000}},
            True,
        ),
        ({"steps": [{"test.shave": {"depth": 0}}]}, False),  # the range is open below
        ({"steps": [{"test.shave": {"depth": 0.5, "dept": 1}}]}, False),  # no such field
        ({"steps": [{"test.shave": {}}]}, False),  # depth is needed
        ({"steps": ["test.shave"]}, False),
        ({"steps": ["test.shove"]}, False),
        ({"steps": []}, False),
        ({"steps": [{"test.shave": {"depth": 0.5}, "other": {}}]}, False),
        ({"steps": [{"test.shave": {"depth": 0.5}}], "constraints": {"max_latency": "half"}}, False),
        ({"steps": [{"test.shave": {"depth": 0.5}}], "target": {"threads": 0}}, False),
        ({"steps": [{"test.shave": {"depth": 0.5}}], "sed": 3}, False),
        ({}, False),
    ],
)
def test_the_schema_of_a_step_takes_and_refuses(recipe: dict[str, Any], fits: bool) -> None:
    assert Draft202012Validator(recipe_schema({"test.shave": Shave})).is_valid(recipe) is fits


def test_every_kind_of_event_that_is_emitted_is_in_the_docs_and_the_reverse() -> None:
    source = "".join(path.read_text() for path in (SCHEMAS.parents[1] / "src").rglob("*.py"))
    emitted = set(re.findall(r'\b(?:emit|record)\(\s*"(\w+)"', source))
    documented = set(re.findall(r"^\| `(\w+)` \|", (SCHEMAS.parent / "events.md").read_text(), re.MULTILINE))
    assert documented == emitted


def changed(path: list[Any], value: Any = ...) -> dict[str, Any]:
    """Return the summary with the entry at `path` replaced, or left out where no value is given."""
    content: Any = copy.deepcopy(SUMMARY)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_a_summary_fits_its_schema_with_and_without_what_is_optional() -> None:
    validator = schema("summary")
    validator.validate(SUMMARY)
    validator.validate(changed(["best"], None) | {"infeasible": "latency 0.61x, at most 0.5x"})
    validator.validate(changed(["candidates", 1, "something_new"], {"a": 1}))


LACKING = (
    [[name] for name in SUMMARY_FIELDS]
    + [["candidates", index, name] for index in (0, 1) for name in CANDIDATE_FIELDS]
    + [["candidates", 1, part, name] for part, names in PARTS.items() for name in names]
)


@pytest.mark.parametrize("path", LACKING, ids=lambda path: ".".join(map(str, path)))
def test_a_summary_without_a_required_field_is_refused_by_the_schema_and_by_the_reader(
    path: list[Any], tmp_path: Path
) -> None:
    content = changed(path)
    with pytest.raises(ValidationError):
        schema("summary").validate(content)
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=str(path[-1])):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["candidates"], []),
        (["candidates", 0, "latency", "verdict"], "faster"),  # the baseline is not judged
        (["candidates", 0, "latency", "ratio"], 0.9),
        (["candidates", 1, "latency", "verdict"], "quick"),
        (["candidates", 1, "bytes"], -1),
        (["candidates", 1, "metric", "n"], 0),
        (["candidates", 1, "decision"], {"verdict": "fine"}),
        (["candidates", 1, "layers"], [{"name": "conv1"}]),
        (["best"], 3),
    ],
)
def test_a_wrong_value_is_refused_by_the_summary_schema(path: list[Any], value: Any) -> None:
    assert not schema("summary").is_valid(changed(path, value))
