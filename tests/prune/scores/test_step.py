"""The recipe's step with scores that need the task's data and loss."""

import dataclasses

import numpy as np
import pytest
import torch

from paretune import prune
from paretune.cache import step_key
from paretune.checkpoint import State
from paretune.errors import InputError, TaskError
from paretune.inspection import check
from paretune.recipe import Context, Recipe, parse_recipe
from paretune.target import Target

TAYLOR = {"taylor": {"of": "output"}}


def weights(step, task, **context):
    return step.apply(task.build(), task, Context(**context)).model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a)


def test_data_and_loss_come_from_the_task(tiny_task):
    step = prune.Channels(macs=0.5, score=TAYLOR, samples=100_000, repair=0, recalibrate=0)
    how = {"macs": 0.5, "score": TAYLOR, "repair": False}
    pruned = prune.channels(
        tiny_task.build(), tiny_task.inputs(), data=tiny_task.train, loss="cross_entropy", **how
    )
    assert same(weights(step, tiny_task), pruned.model.state_dict())
    assert not same(weights(dataclasses.replace(step, score="l1"), tiny_task), pruned.model.state_dict())


def test_the_samples_are_drawn_by_the_seed(tiny_task):
    step = prune.Channels(ratio=0.5, score=TAYLOR, samples=16, repair=0, recalibrate=0)
    first = weights(step, tiny_task)
    assert same(first, weights(step, tiny_task))
    assert not same(first, weights(step, tiny_task, seed=1))


def test_a_score_with_options_in_a_recipe():
    recipe = parse_recipe(
        {"steps": [{"prune.channels": {"score": TAYLOR, "scope": "isomorphic", "params": "10K"}}]}
    )
    assert parse_recipe(recipe.to_dict()) == recipe
    assert recipe.steps[0].parameters()["score"] == TAYLOR


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": {"taylor": {"off": 1}}}, "has no option 'off'. Did you mean 'of'"),
        ({"score": {"taylor": {"of": "input"}}}, "of='input' must be one of output, weight"),
        ({"params": "1furlong"}, "params='1furlong' is no amount"),
        ({"size": -1}, "size=-1 must be above 0"),
        ({"latency": "2x"}, "latency=2x must be above 0 and at most 1, or an amount like '2ms'"),
        ({"size": "1KB", "params": 0.5}, "not params and size"),
    ],
)
def test_fields_are_checked_when_the_step_is_built(fields, message):
    with pytest.raises(InputError, match=message):
        prune.Channels(**fields)


def test_a_task_without_training_data_says_so(tiny_task):
    task = dataclasses.replace(tiny_task, train=None)
    with pytest.raises(TaskError, match=r"needs task\.train"):
        weights(prune.Channels(ratio=0.5, score="fisher", repair=0, recalibrate=0), task)
    assert weights(prune.Channels(ratio=0.5, score="l1", repair=0, recalibrate=0), task)


def test_check_sees_what_the_step_would_do(tiny_task):
    step = prune.Channels(ratio=0.5, score=TAYLOR, repair=0, recalibrate=0)
    result = check(Recipe(steps=(step,), seed=3), tiny_task)
    assert result["ok"]
    state = weights(step, tiny_task, seed=3)
    assert result["steps"][0]["after"]["params"] == sum(
        tensor.numel() for name, tensor in state.items() if "running" not in name and "batches" not in name
    )


def test_only_a_budget_of_time_depends_on_the_target(tiny_task):
    model = tiny_task.build()

    def key(step, threads):
        return step_key(step, State(model.state_dict()), model, tiny_task, Context(target=Target(threads=threads)))

    assert key(prune.Channels(macs=0.5), 1) == key(prune.Channels(macs=0.5), 2)
    assert key(prune.Channels(latency=0.5), 1) != key(prune.Channels(latency=0.5), 2)


def test_the_target_of_the_run_is_what_is_timed_on(tiny_task, monkeypatch):
    seen = []

    def budget(analysis, name, asked, target):
        seen.append((name, asked, target))
        raise InputError("enough")

    monkeypatch.setattr("paretune.prune._selection.selection.budget", budget)
    with pytest.raises(InputError, match="enough"):
        weights(prune.Channels(latency="0.5x"), tiny_task, target=Target(threads=2))
    assert seen == [("latency", "0.5x", Target(threads=2))]


def test_a_trained_network_loses_less_by_scores_that_see_data_than_by_chance(trained_task, digits):
    """A third of the channels, no repair and no training: the order of the scores is all that tells them apart."""
    images, labels = (torch.from_numpy(part) for part in digits["val"])

    def accuracy(score):
        step = prune.Channels(ratio=1 / 3, scope="local", score=score, repair=0)
        model = step.apply(trained_task.build(), trained_task, Context()).model.eval()
        with torch.no_grad():
            return float((model(images).argmax(1) == labels).float().mean())

    chance = np.mean([accuracy({"random": {"seed": seed}}) for seed in range(5)])
    for score in (TAYLOR, "fisher", "lasso", "thinet"):
        assert accuracy(score) > chance + 0.03, (score, chance)
