"""Priors as weights of a model's candidates: the agreement by hand, and what samplers make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paretune.errors import RecipeError
from paretune.search import Categorical, Float, Normal, Space, minimize
from paretune.search._results import Growing
from paretune.search.samplers import Bayes, Bohb
from paretune.search.samplers._prior import agreement, log_prior, power

PEAK = Space({"x": Float(0, 1, prior=Normal(0.9, 0.2)), "y": Float(0, 1)})
PLAIN = Space({"x": Float(0, 1), "y": Float(0, 1)})


def rows_of(values):
    return np.stack([values, np.full(len(values), 0.5)], axis=1)


def results_of(losses, values):
    growing = Growing(2)
    for row, loss in zip(rows_of(np.asarray(values)), losses, strict=True):
        growing.add(row, float(loss), 0)
    return growing.results()


def test_agreement_by_hand():
    """Four results in the prior's order: a correlation of one, less a half; of eight two swapped: 1 - 12 / 504."""
    rows = rows_of([0.9, 0.7, 0.5, 0.3])
    assert agreement(PEAK, rows, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.5)
    assert power(PEAK, rows, np.array([1.0, 2.0, 3.0, 4.0]), 30.0) == pytest.approx(30 / 4 * 0.5)
    assert agreement(PEAK, rows, np.array([4.0, 3.0, 2.0, 1.0])) == 0
    assert agreement(PEAK, rows, np.array([1.0, 1.0, 1.0, 1.0])) == 0, "all the same tell nothing"
    assert agreement(PEAK, rows[:3], np.array([1.0, 2.0, 3.0])) == 0, "three are too few"
    assert agreement(PLAIN, rows, np.array([1.0, 2.0, 3.0, 4.0])) == 0
    eight = rows_of([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    swapped = np.array([2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, np.inf])
    assert agreement(PEAK, eight, swapped) == pytest.approx(1 - 6 * 2 / (8 * 63) - 1 / np.sqrt(8))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(4, 40))
def test_agreement_is_scipys_rank_correlation_less_its_error(seed, count):
    generator = np.random.default_rng(seed)
    rows, losses = generator.random((count, 2)), generator.integers(0, 5, count).astype(float)
    if len(set(losses)) == 1:
        return
    correlation = stats.spearmanr(log_prior(PEAK, rows), -losses).statistic
    assert agreement(PEAK, rows, losses) == pytest.approx(max(0.0, correlation - 1 / np.sqrt(count)))


def test_what_the_prior_rules_out_has_a_finite_logarithm():
    space = Space({"c": Categorical(["a", "b"], weights=[0, 1])})
    assert log_prior(space, np.array([[0.25], [0.75]])) == pytest.approx([np.log(1e-300), np.log(2)])


@pytest.mark.parametrize(("order", "near"), [(1, True), (-1, False)])
def test_bayes_follows_a_prior_that_results_agree_with(order, near):
    """Thirty results that get better, or worse, towards the prior's peak: only then is beta of any effect."""
    values = np.random.default_rng(0).random(30)
    results = results_of(order * np.abs(values - 0.9), values)

    def drawn(beta):
        made = [Bayes(beta=beta).suggest(PEAK, results, np.random.default_rng(i), 30) for i in range(12)]
        return [each.config["x"] for each in made]

    with_prior, without = drawn(30.0), drawn(0.0)
    if near:
        assert np.std(with_prior) < 0.15 and abs(np.mean(with_prior) - 0.9) < 0.1 and with_prior != without
    else:
        assert with_prior == without


def test_before_there_is_a_model_draws_leave_aside_what_results_speak_against():
    values = np.linspace(0.05, 0.95, 8)
    for losses, origin in ((np.abs(values - 0.9), "prior"), (values, "random")):
        for count in (4, 8):
            results, generator = results_of(losses[:count], values[:count]), np.random.default_rng(1)
            assert Bayes().suggest(PEAK, results, generator, count).origin == origin
            origins = {Bohb(random=1.0).suggest(PEAK, results, generator, 0).origin for _ in range(20)}
            assert origins == ({"random"} if origin == "random" else {"prior", "random"})
    first = [Bayes().suggest(PEAK, results_of([], []), generator, number).origin for number in range(4)]
    assert first == ["prior", "random", "prior", "random"]
    assert Bayes().suggest(PLAIN, results_of([], []), generator, 1).origin == "random"


@pytest.mark.parametrize("model", ["tpe", "gp"])
def test_a_right_prior_helps_bayes_and_a_wrong_one_is_overruled(model):
    """Five numbers whose best values are at 0.8: believed to be there, or at 0.2, or nothing believed."""
    count, seeds = (12, 2) if model == "gp" else (40, 5)
    method = {"bayes": {"model": model, "startup": 6 if model == "gp" else 10}}

    def found(prior, seed):
        space = Space({f"x{i}": Float(0, 1, prior=prior) for i in range(5)})
        loss = lambda config: sum(abs(value - 0.8) for value in config.values())  # noqa: E731
        return minimize(loss, space, method, budget=count, seed=seed).best.loss

    priors = (Normal(0.8, 0.1), None, Normal(0.2, 0.1))
    right, none, wrong = (np.median([found(prior, seed) for seed in range(seeds)]) for prior in priors)
    assert right < 0.7 * none and wrong < 1.5 * none


def test_bohb_weights_its_candidates():
    """Good runs lie above 0.5, bad ones everywhere: the ratio is much the same there, the prior says where."""
    space = Space({"x": Float(0, 1, prior=Normal(0.7, 0.1)), "y": Float(0, 1)})
    values = np.concatenate([np.linspace(0.5, 1.0, 12), np.linspace(0.0, 1.0, 36)])
    results = results_of(np.arange(48.0), values)

    def far(beta):
        sampler = Bohb(random=0.0, beta=beta, top=0.25)
        made = [sampler.suggest(space, results, np.random.default_rng(i), 0).config["x"] for i in range(20)]
        return np.mean(np.abs(np.array(made) - 0.7))

    assert far(300.0) < 0.07 < 0.12 < far(0.0)


def test_bad_settings():
    for sampler in (Bayes, Bohb):
        with pytest.raises(RecipeError, match=r"beta=-1 must be at least 0"):
            sampler(beta=-1)
    with pytest.raises(RecipeError, match="top=0 must be above 0"):
        Bayes(top=0)
