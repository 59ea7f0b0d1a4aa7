import math

import pytest
import torch
from torch import nn

from paretune.errors import DataError, RecipeError, TaskError
from paretune.task import Task
from paretune.train import task_loss
from paretune.train._objective import task_objective


def _task(**fields):
    return Task(model=nn.Identity(), **fields)


def test_label_smoothing_by_hand():
    # four classes, e = 0.1: target 0.925 on the label, 0.025 elsewhere; log-softmax of [ln 3, 0, 0, 0]
    logits = torch.tensor([[math.log(3.0), 0.0, 0.0, 0.0]])
    by_hand = -(0.925 * math.log(3 / 6) + 3 * 0.025 * math.log(1 / 6))
    assert task_loss(_task(), 0.1)(logits, torch.tensor([0])).item() == pytest.approx(by_hand)
    assert task_loss(_task())(logits, torch.tensor([0])).item() == pytest.approx(math.log(2))


def test_label_smoothing_needs_cross_entropy():
    with pytest.raises(RecipeError, match=r"label_smoothing=0\.1 needs the loss 'cross_entropy'.*'mse'"):
        task_loss(_task(loss="mse"), 0.1)


def test_labels_outside_the_classes():
    with pytest.raises(DataError, match=r"labels from 0 to 3, but the model has 3 outputs.*classes 0 to 2"):
        task_loss(_task())(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(DataError, match="labels from -1"):
        task_loss(_task())(torch.zeros(2, 3), torch.tensor([0, -1]))


def test_the_ignored_label_is_allowed():
    assert task_loss(_task())(torch.zeros(2, 3), torch.tensor([0, -100])).item() == pytest.approx(math.log(3))
    assert math.isnan(task_loss(_task())(torch.zeros(2, 3), torch.tensor([-100, -100])).item())


def test_class_probabilities_as_target():
    target = torch.tensor([[0.5, 0.5]])
    assert task_loss(_task())(torch.zeros(1, 2), target).item() == pytest.approx(math.log(2))


def test_a_missing_target_is_said():
    with pytest.raises(TaskError, match=r"task\.train yields no target"):
        task_loss(_task())(torch.zeros(2, 3), None)


def test_a_loss_of_the_user_that_fails_is_named_with_what_it_was_given():
    def lopsided(output, target):
        return output @ target

    with pytest.raises(TaskError, match=r"'lopsided' failed on .*RuntimeError: .*\(2, 3\) float32 as output"):
        task_loss(_task(loss=lopsided))(torch.zeros(2, 3), torch.zeros(2))


def test_bfloat16_outputs_are_compared_in_float32():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.arange(8) % 5
    assert torch.equal(task_loss(_task())(logits, target), nn.functional.cross_entropy(logits.float(), target))


def test_the_objective_has_one_term_under_the_name_of_the_loss():
    def squared(output, target):
        return (output - target).square().mean()

    terms = task_objective(_task(loss=squared))(nn.Identity(), torch.ones(2), torch.zeros(2))
    assert {name: term.item() for name, term in terms.items()} == {"squared": 1.0}
