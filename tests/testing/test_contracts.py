"""Every registered method passes the contract of its family, and each contract catches what it is there for."""

import pytest
import torch

from paretune.methods import registry
from paretune.testing import check_loss, check_score


@pytest.mark.parametrize("name", registry("scores"))
def test_every_score_passes(name):
    check_score(registry("scores")[name])


@pytest.mark.parametrize("name", registry("losses"))
def test_every_loss_passes(name):
    check_loss(registry("losses")[name])


def in_place(weight):
    weight.abs_()
    return weight.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda weights: weights, "it asks for weights"),
        (lambda weight: weight.abs(), "one score for each output channel"),
        (lambda weight: weight.flatten(1).norm(dim=1).double(), "scores are float32"),
        (lambda weight: weight.flatten(1).sum(1) / 0, "scores are finite"),
        (in_place, "must not change weight"),
        (lambda weight: weight.flatten(1).sum(1) + torch.rand(6), "equal inputs give equal scores"),
        (lambda weight: weight.flatten(1).sum(1).cumsum(0), "permuted channels must have permuted scores"),
        (lambda activation: activation.sum((1, 2, 3))[[0, 1, 2, 3, 4, 4]], "permuted channels"),
    ],
)
def test_a_broken_score_is_told_its_rule(broken, rule):
    with pytest.raises(AssertionError, match=rule):
        check_score(broken)


def test_a_score_may_ask_for_what_the_caller_has():
    check_score(lambda weight, grad: (weight * grad).flatten(1).sum(1).abs())
    check_score(lambda activation: (activation > 0).float().mean((0, 2, 3)))
    check_score(lambda bn_weight, scale=2.0: scale * bn_weight.abs())


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda student, teacher: (student - teacher).square(), "a loss is a scalar"),
        (lambda student, teacher: (student - teacher).square().mean() / 0, "finite"),
        (lambda student, teacher: (student - teacher).square().mean(), "no gradient may reach the teacher"),
        (lambda student, teacher: student.square().mean(), "must be least where student and teacher agree"),
        (lambda student, teacher: (student[0] - teacher[0].detach()).square().mean(), "samples have no order"),
    ],
)
def test_a_broken_loss_is_told_its_rule(broken, rule):
    with pytest.raises(AssertionError, match=rule):
        check_loss(broken)
