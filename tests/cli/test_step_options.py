"""A step's options come from its fields: names, types, defaults, ranges and words."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import click
import pytest

from paretune.cli._step_options import Hint, field_docs, given_fields, read_value, step_options, take_apart
from paretune.recipe import Range, Step


@final
@dataclass(frozen=True, kw_only=True)
class Shrink(Step):
    """Make it smaller."""

    name: ClassVar[str] = "prune.shrink"

    score: str = "l1"
    """How channels are scored."""
    ratio: Annotated[float, Range(0.0, 1.0, high_open=True)] = 0.5
    """The fraction
    removed."""
    weight_decay: float = 5e-4
    per_layer: bool = False
    """Whether every layer loses as much."""
    scope: Literal["global", "layer"] = "global"
    multiple: int | None = None
    protect: tuple[str, ...] = ()
    """Layers left alone."""
    losses: tuple[Any, ...] = ("soft_labels",)
    method: str = "greedy"


def options():
    return {option.name: option for option in step_options(Shrink, taken={"method", "help"})}


def test_every_field_is_an_option_of_the_same_name_with_dashes():
    flags = [flag for option in options().values() for flag in option.opts]
    assert flags == [
        "--score", "--ratio", "--weight-decay", "--per-layer", "--scope", "--multiple", "--protect", "--losses",
        "--shrink-method",
    ]  # fmt: skip


def test_help_is_the_docstring_beneath_the_field_with_default_and_range():
    made = options()
    assert made["field_ratio"].help == "The fraction removed. [default: 0.5; at least 0 and below 1]"
    assert made["field_multiple"].help == "[default: none]"
    assert made["field_per_layer"].help == "Whether every layer loses as much. [default: no]"
    assert field_docs(Shrink)["protect"] == "Layers left alone."


def test_a_switch_has_both_sides_and_a_literal_is_a_choice():
    made = options()
    assert made["field_per_layer"].secondary_opts == ["--no-per-layer"]
    assert isinstance(made["field_scope"].type, click.Choice)


def parse(*args):
    """Return the fields that a command line gives."""
    command = click.Command("x", params=list(options().values()), callback=lambda **o: o)
    return given_fields(Shrink, command.main(list(args), standalone_mode=False))


def test_only_what_was_given_becomes_a_field():
    assert parse() == {}
    assert parse("--no-per-layer") == {"per_layer": False}


def test_values_are_read_as_a_recipe_would():
    fields = parse(
        "--score", "1", "--ratio", "0.25", "--weight-decay", "1e-3", "--multiple", "null", "--shrink-method", "a"
    )
    assert fields == {"score": "1", "ratio": 0.25, "weight_decay": 1e-3, "method": "a"} | {"multiple": None}


def test_a_list_is_given_in_pieces_or_as_one():
    assert parse("--protect", "stem", "--protect", "head")["protect"] == ["stem", "head"]
    assert parse("--protect", "[stem, head]")["protect"] == ["stem", "head"]
    assert parse("--losses", "soft_labels: {temperature: 4}")["losses"] == [{"soft_labels": {"temperature": 4}}]


def test_a_choice_of_numbers_is_read_as_a_number():
    assert read_value("8", take_apart(Literal[4, 8])) == 8


def test_what_is_no_yaml_stays_text_for_the_step_to_refuse():
    assert read_value("[1, 2", Hint((float,), (), None, False)) == "[1, 2"


@pytest.mark.parametrize(
    ("annotation", "kinds", "choices", "optional"),
    [
        (float, (float,), (), False),
        (float | None, (float,), (), True),
        (int | str, (int, str), (), False),
        (Literal["a", "b"], (str,), ("a", "b"), False),
        (Literal["a", "b"] | None, (str,), ("a", "b"), True),
        (Literal[4, 8], (int,), ("4", "8"), False),
        (Literal["auto"] | int, (str, int), (), False),
        (tuple[str, ...], (tuple,), (), False),
        (dict[str, int], (dict,), (), False),
        (Annotated[float | None, Range(0, 1)], (float,), (), True),
    ],
)
def test_annotations_are_taken_apart(annotation, kinds, choices, optional):
    hint = take_apart(annotation)
    assert (hint.kinds, hint.choices, hint.optional) == (kinds, choices, optional)


def test_the_range_is_found_inside_an_optional():
    assert take_apart(Annotated[float, Range(0, 1)] | None).range == Range(0, 1)
