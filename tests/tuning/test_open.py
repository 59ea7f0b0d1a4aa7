"""Values left open: found wherever they are, filled in, and mistakes told where they are."""

from __future__ import annotations

from typing import Any

import pytest

from paretune.errors import InputError, RecipeError
from paretune.search import Float, Int
from paretune.tuning import read_open
from paretune.tuning._open import open_recipe

CUT = {"prune.channels": {"macs": {"float": [0.2, 0.8]}, "multiple": {"categorical": [1, 16]}}}
DEEP = {
    "distill": {"epochs": "budget", "losses": [{"soft_labels": {"temperature": {"float": [1, 8], "log": True}}}]}
}


def recipe(*steps: Any, **more: Any) -> dict[str, Any]:
    return {"task": "net.py:make_task", "steps": list(steps), **more}


def test_values_are_found_and_filled_in_wherever_they_are() -> None:
    made = open_recipe(recipe(CUT, DEEP, model={"width": {"int": [16, 64]}, "depth": 2}))
    temperature = "distill.losses.soft_labels.temperature"
    assert set(made.space.names) == {
        "prune.channels.macs", "prune.channels.multiple", temperature, "model.width",
    }  # fmt: skip
    assert made.space["prune.channels.macs"] == Float(0.2, 0.8)
    filled = made.filled(
        {"prune.channels.macs": 0.5, "prune.channels.multiple": 16, temperature: 2.0, "model.width": 32}, 3
    )
    cut, taught = filled.steps
    assert (cut.macs, cut.multiple) == (0.5, 16)  # type: ignore[attr-defined]
    assert taught.epochs == 3  # type: ignore[attr-defined]
    assert taught.parameters()["losses"] == [{"soft_labels": {"temperature": 2.0}}]
    assert filled.task == "net.py:make_task(width=32, depth=2)"
    assert made.content["steps"][0] == CUT  # what was given is as it was


def test_steps_of_one_name_are_numbered_and_rules_use_the_names() -> None:
    twice = {"prune.channels": {"macs": {"float": [0.2, 0.8]}}}
    rule = "prune.channels.macs < prune.channels_2.macs"
    made = open_recipe(recipe(twice, "distill", twice, forbid=[rule]))
    assert made.space.names == ("prune.channels.macs", "prune.channels_2.macs")
    assert not made.space.allowed({"prune.channels.macs": 0.3, "prune.channels_2.macs": 0.5})
    filled = made.filled({"prune.channels.macs": 0.7, "prune.channels_2.macs": 0.5}, None)
    assert [step.parameters().get("macs") for step in filled.steps] == [0.7, None, 0.5]


def test_a_value_that_is_not_active_is_left_to_its_default() -> None:
    how = {
        "optimizer": {"categorical": ["sgd", "adam"]},
        "momentum": {"float": [0, 0.9], "when": "distill.optimizer == 'sgd'"},
    }
    made = open_recipe(recipe({"distill": how}))
    assert made.filled({"distill.optimizer": "adam"}, None).steps[0].momentum == 0.9  # type: ignore[attr-defined]
    sgd = made.filled({"distill.optimizer": "sgd", "distill.momentum": 0.5}, None)
    assert sgd.steps[0].momentum == 0.5  # type: ignore[attr-defined]


def test_a_field_says_its_own_range() -> None:
    fields = {name: {"search": "default"} for name in ("alpha", "epochs", "momentum")}
    made = open_recipe(recipe({"prune.channels": {"macs": {"search": "default"}}}, {"distill": fields}))
    assert made.space["distill.alpha"] == Float(0, 1)
    assert made.space["distill.epochs"] == Int(1, 1000, log=True)
    assert made.space["distill.momentum"] == Float(0, 0.95)  # 1 itself is not allowed
    assert made.space["prune.channels.macs"] == Float(0.1, 0.9)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([{"prune.channels": {"macs": 0.5}}], "leaves nothing open"),
        ([{"prune.channels": {"macs": {"search": "all"}}}], r"macs: search: 'all' must be `default`"),
        ([{"prune.channels": {"latency": {"search": "default"}}}], r"latency: it has no range with two ends"),
        ([{"prune.channels": {"mac": {"search": "default"}}}], r"no field 'mac'\. Did you mean 'macs'"),
        ([{"prune.channels": {"mac": {"float": [0.1, 0.5]}}}], r"no field 'mac'\. Did you mean 'macs'"),
        ([{"prune.channels": {"macs": {"float": [0.8, 0.2]}}}], r"prune\.channels\.macs: .*0\.8"),
        ([{"prune.channels": {"ratio": {"float": [0.5, 3.0]}}}], r"step 1 of 1 \(prune\.channels\).*ratio="),
    ],
)
def test_mistakes_are_told_before_anything_runs(steps: list[Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_recipe(recipe(*steps))


def test_budgets_and_the_word_budget_go_together() -> None:
    with pytest.raises(InputError, match="nothing in the recipe says `budget`"):
        open_recipe(recipe(CUT)).check_budgets((1, 3, 9))
    with pytest.raises(InputError, match=r"distill\.epochs is `budget`, and the method has none"):
        open_recipe(recipe(CUT, DEEP)).check_budgets((None,))
    open_recipe(recipe(CUT, DEEP)).check_budgets((1, 3, 9))


def test_a_recipe_needs_its_task_and_a_run_needs_values(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="names no task"):
        open_recipe({"steps": [CUT]})
    from paretune import read_recipe

    path = tmp_path / "open.yaml"
    path.write_text("task: net.py:make_task\nsteps:\n  - prune.channels: {macs: {float: [0.2, 0.8]}}\n")
    assert read_open(path).space.names == ("prune.channels.macs",)
    with pytest.raises(RecipeError, match=r"macs is left open; `paretune search run` fills it in"):
        read_recipe(path)
