"""Every registered method passes the contract of its family, and each contract catches what it is there for."""

import numpy as np
import pytest
import torch

from paretune.errors import InputError
from paretune.methods import registry
from paretune.search.samplers import Grid, Random
from paretune.search.samplers._base import OneBudget, Suggestion, from_prior
from paretune.testing import check_loss, check_sampler, check_score


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


@pytest.mark.parametrize("name", registry("samplers"))
def test_every_sampler_passes(name):
    kind = registry("samplers")[name]
    check_sampler(kind(points=2) if kind is Grid else kind())


class Forgetful(OneBudget):
    """Leaves a parameter out."""

    name = "forgetful"

    def suggest(self, space, results, generator, number):
        made = from_prior(space, generator)
        return Suggestion(made.row, {n: v for n, v in made.config.items() if n != "lr"}, "random")


class Whimsical(Forgetful):
    """Draws from a generator of its own."""

    def suggest(self, space, results, generator, number):
        return from_prior(space, np.random.default_rng())


class Meddling(Forgetful):
    """Changes what it is shown."""

    def suggest(self, space, results, generator, number):
        results.losses[:] = 0.0
        return from_prior(space, generator)


class Careless(Forgetful):
    """Suggests what is forbidden."""

    def suggest(self, space, results, generator, number):
        config = {"opt": "adam", "lr": 1e-3, "layers": 4, "size": 32, "kind": "mlp"}
        return Suggestion(np.full(len(space), 0.5), config, "random")


@pytest.mark.parametrize(
    ("broken", "error", "rule"),
    [
        (Forgetful(), InputError, "'lr' has no value"),
        (Whimsical(), AssertionError, "the same results and generator give the same suggestion"),
        (Meddling(), AssertionError, "results are not changed"),
        (Careless(), InputError, "is forbidden by"),
        (Random, AssertionError, "a sampler is a Sampler"),
    ],
)
def test_a_broken_sampler_is_told_its_rule(broken, error, rule):
    with pytest.raises(error, match=rule):
        check_sampler(broken)
