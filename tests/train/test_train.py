import pytest
import torch

from paretune.errors import RecipeError
from paretune.methods import find
from paretune.recipe import Context, parse_recipe, read_recipe
from paretune.train import Train


def test_a_recipe_finds_it_and_its_parameters_come_back():
    step = parse_recipe({"steps": [{"train": {"epochs": 2, "lr": 0.01, "optimizer": "sgd"}}]}).steps[0]
    assert step == Train(epochs=2, lr=0.01, optimizer="sgd")
    assert step == find("steps", "train")(**step.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"train: epochs=0 must be at least 1"),
        ({"lr": 0.0}, r"train: lr=0\.0 must be above 0"),
        ({"momentum": 1.0}, r"train: momentum=1\.0 must be at least 0 and below 1"),
        ({"label_smoothing": 1.0}, r"train: label_smoothing=1\.0 must be .* below 1"),
        ({"clip_norm": 0.0}, r"train: clip_norm=0\.0 must be above 0"),
        ({"clip_value": -1.0}, r"train: clip_value=-1\.0 must be above 0"),
        ({"patience": 0}, r"train: patience=0 must be at least 1"),
        ({"optimizer": "adamax"}, r"train: optimizer='adamax': input should be 'adamw', 'adam' or 'sgd'"),
        ({"schedule": "step"}, r"train: schedule='step'"),
        ({"epochs": 2, "warmup": 2.0}, r"train: warmup=2 must be less than epochs=2"),
        ({"lr": float("nan")}, r"train: lr=nan must be"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(fields, message):
    with pytest.raises(RecipeError, match=message):
        Train(**fields)


def test_apply_trains_and_tells_how(tiny_task):
    tiny_task.batch_size = 32
    result = Train(epochs=2, lr=0.005, precision="float32", layout="contiguous").apply(
        tiny_task.build(), tiny_task, Context()
    )
    assert not result.model.training
    assert [record["epoch"] for record in result.details["curve"]] == [1, 2]
    assert result.details["curve"][-1]["value"] > 0.5  # chance is 0.1
    assert (result.details["precision"], result.details["layout"]) == ("float32", "contiguous")
    assert result.details["best_epoch"] in (1, 2) and result.details["seconds"] > 0


def test_the_seed_fixes_the_result(tiny_task):
    step = Train(epochs=1, precision="float32", layout="contiguous")
    runs = [step.apply(tiny_task.build(), tiny_task, Context(seed=seed)).model.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_an_exponent_without_a_point_is_a_number_in_a_recipe_too(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps:\n  - train: {lr: 1e-3, weight_decay: 5E-4}\n")  # text, to YAML 1.1
    step = read_recipe(path, overrides=["train.lr=2e-3"]).steps[0]
    assert (step.lr, step.weight_decay) == (0.002, 0.0005)


@pytest.mark.parametrize("value", ["3", True, 2.5])
def test_a_value_of_another_type_is_refused_where_it_stands(value):
    with pytest.raises(RecipeError, match=rf"step 1 of 1 \(train\): epochs={value!r}: input should be"):
        parse_recipe({"steps": [{"train": {"epochs": value}}]})
