"""Recipes: YAML and Python are the same thing, and all mistakes are told at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from paretune import recipe as module
from paretune.errors import RecipeError
from paretune.recipe import (
    LATENCY_UNITS,
    SIZE_UNITS,
    Constraints,
    GraphStep,
    Range,
    Recipe,
    Step,
    amount,
    check_ranges,
    parse_recipe,
    read_recipe,
)


@dataclass(frozen=True, kw_only=True)
class Shrink(Step):
    name: ClassVar[str] = "prune.shrink"
    ratio: Annotated[float, Range(0, 1, high_open=True)] = 0.5
    scope: Literal["global", "local"] = "global"
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Grid(GraphStep):
    name: ClassVar[str] = "quantize.grid"
    bits: int = 8


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "registry", lambda family: {"prune.shrink": Shrink, "quantize.grid": Grid})


GOOD = """
task: examples/x.py:make_task
target: {threads: 2}
steps:
  - prune.shrink: {ratio: 0.25, protect: [head]}
  - quantize.grid
constraints: {max_drop: 1.0, max_latency: 0.5x}
"""


def test_a_recipe_is_read_with_its_defaults(tmp_path: Path):
    (tmp_path / "r.yaml").write_text(GOOD)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.steps == (Shrink(ratio=0.25, protect=("head",)), Grid())
    assert recipe.target.threads == 2
    assert recipe.constraints.max_latency == "0.5x"


def test_the_resolved_recipe_reads_back_as_itself():
    recipe = parse_recipe(yaml.safe_load(GOOD))
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert "scope: global" in recipe.to_yaml()  # every default is written out


@given(ratio=st.floats(0, 0.99), seed=st.integers(0, 2**31), drop=st.floats(0, 50))
def test_any_recipe_survives_yaml(ratio: float, seed: int, drop: float):
    recipe = Recipe(steps=(Shrink(ratio=ratio),), seed=seed, constraints=Constraints(max_drop=drop))
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_overrides_by_name_by_position_and_of_the_frame():
    recipe = parse_recipe(
        yaml.safe_load(GOOD),
        overrides=["prune.shrink.ratio=0.75", "2.bits=4", "constraints.max_drop=2", "seed=7", "target.batch=4"],
    )
    assert recipe.steps == (Shrink(ratio=0.75, protect=("head",)), Grid(bits=4))
    assert (recipe.constraints.max_drop, recipe.seed, recipe.target.batch) == (2, 7, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.shrnk.ratio=1", r"no step 'prune\.shrnk'\. Did you mean 'prune\.shrink'\?"),
        ("ratio", r"write step\.field=value"),
        ("prune.shrink.rtio=0.1", r"no field 'rtio'\. Did you mean 'ratio'\?"),
    ],
)
def test_a_wrong_override_names_the_nearest(override: str, message: str):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(yaml.safe_load(GOOD), overrides=[override])


def test_all_mistakes_are_told_at_once():
    content = yaml.safe_load(GOOD)
    content["steps"] = [{"prune.shrink": {"rato": 0.5}}, {"prune.shrimk": {}}, {"prune.shrink": {"ratio": 1.5}}]
    content["constraint"] = {}
    content["target"] = {"runtime": "onxruntime"}
    content["seed"] = -1
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, source="r.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    text = "\n".join(lines)
    assert "r.yaml, step 1 of 3 (prune.shrink): no field 'rato'. Did you mean 'ratio'?" in text
    assert "r.yaml, step 2 of 3 (prune.shrimk): no step 'prune.shrimk'. Did you mean 'prune.shrink'?" in text
    assert "step 3 of 3 (prune.shrink): ratio=1.5 must be at least 0 and below 1" in text
    assert "no field 'constraint'. Did you mean 'constraints'?" in text
    assert "no runtime 'onxruntime'. Did you mean 'onnxruntime'?" in text
    assert "seed=-1" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a recipe is a mapping"),
        ({"steps": []}, "at least one step"),
        ({"steps": [{"prune.shrink": 3}]}, "must be a mapping"),
        ({"steps": [{"prune.shrink": {"ratio": "half"}}]}, "ratio='half'"),
        ({"steps": [{"prune.shrink": {"scope": "globl"}}]}, "scope='globl'"),
        ({"steps": [{"a": {}, "b": {}}]}, "a step is a name"),
        ({"steps": ["quantize.grid", "prune.shrink"]}, "prune.shrink works on the model, but stands after"),
        ({"steps": ["prune.shrink"], "constraints": {"max_drop": -1}}, "max_drop=-1"),
        ({"steps": ["prune.shrink"], "constraints": {"max_latency": "fast"}}, "max_latency='fast' is no amount"),
        ({"steps": ["prune.shrink"], "target": {"threads": 0}}, "threads=0"),
    ],
)
def test_bad_recipes(content: object, message: str):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(content)


def test_yaml_that_does_not_parse_says_where(tmp_path: Path):
    (tmp_path / "r.yaml").write_text("steps: [a\nb: {")
    with pytest.raises(RecipeError, match=r"r\.yaml, line 2.*not YAML"):
        read_recipe(tmp_path / "r.yaml")


def test_a_missing_recipe_names_the_nearest_file(tmp_path: Path):
    (tmp_path / "resnet.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"Did you mean 'resnet\.yaml'\?"):
        read_recipe(tmp_path / "resent.yaml")


def test_a_step_built_in_python_is_validated_too():
    with pytest.raises(RecipeError, match=r"prune\.shrink: ratio=1 must be at least 0 and below 1"):
        Shrink(ratio=1)


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("0.5x", LATENCY_UNITS, (0.5, True)),
        ("3ms", LATENCY_UNITS, (3.0, False)),
        (2, LATENCY_UNITS, (2.0, False)),
        ("250us", LATENCY_UNITS, (0.25, False)),
        ("300KB", SIZE_UNITS, (300_000.0, False)),
        ("1.5 MiB", SIZE_UNITS, (1572864.0, False)),
    ],
)
def test_amounts(text: str, units: dict[str, float], expected: tuple[float, bool]):
    assert amount(text, units, "x") == expected


@pytest.mark.parametrize("text", ["0x", "-1ms", "5 miles", "", True])
def test_no_amounts(text: object):
    with pytest.raises(RecipeError, match="max_latency"):
        amount(text, LATENCY_UNITS, "max_latency")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "", 0])
def test_a_device_is_known_before_anything_runs(device: object):
    with pytest.raises(RecipeError, match="must be cpu, cuda or mps"):
        parse_recipe({"steps": ["quantize.grid"], "device": device})
    assert parse_recipe({"steps": ["quantize.grid"], "device": "cuda:1"}).device == "cuda:1"
