"""TPE's density: widths by hand, against Optuna's own, whole over the cube, and draws that follow it."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from scipy import stats

from paretune.search import Categorical, Float, Int, Space, when
from paretune.search._density import columns
from paretune.search._parzen import Parzen, _distances

PLAIN = Space({"x": Float(0, 1), "y": Float(0, 1), "kind": Categorical(["a", "b", "c"])})


def drawn(space, count, seed):
    return space.rows(np.random.default_rng(seed).random((count, len(space))))


def test_widths_are_distances_to_neighbours_by_hand():
    # sorted 0.1, 0.5, 0.6: the outermost reach to their neighbour, the middle one to the farther of two;
    # none is below 1 / (3 + 2)
    assert _distances(np.array([0.5, 0.1, 0.6]), 1e-3).tolist() == pytest.approx([0.4, 0.4, 0.2, 1.0])
    assert _distances(np.array([0.3]), 1e-3).tolist() == pytest.approx([0.7, 1.0]), "to the farther end"
    assert _distances(np.array([0.3, 0.3]), 1e-3).tolist() == pytest.approx([0.25, 0.25, 1.0])
    assert _distances(np.array([np.nan, 0.3]), 1e-3).tolist() == pytest.approx([1.0, 0.7, 1.0])
    assert _distances(np.arange(200) / 200, 0.02)[:-1].max() == pytest.approx(0.02), "the floor"


def test_the_density_by_hand():
    parzen = Parzen(np.array([[0.3]]), columns(Space({"x": Float(0, 1)})))
    one = stats.truncnorm((0 - 0.3) / 0.7, (1 - 0.3) / 0.7, 0.3, 0.7).pdf(0.4)
    other = stats.truncnorm(-0.5, 0.5, 0.5, 1.0).pdf(0.4)
    assert np.exp(parzen.log(np.array([[0.4]])))[0] == pytest.approx((one + other) / 2)
    of_two = Parzen(np.array([[0.25]]), columns(Space({"k": Categorical(["a", "b"])})))
    # of its own kernel "a" has (1 + 1/2) / (1 + 2/2), of the other one a half; the uniform density is 1/2
    assert np.exp(of_two.log(np.array([[0.25]])))[0] == pytest.approx(2 * (0.75 + 0.5) / 2)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(0, 100))
def test_it_is_optunas(count, seed):
    rows, points = drawn(PLAIN, count, seed), drawn(PLAIN, 20, seed + 1)
    space = {
        "x": optuna.distributions.FloatDistribution(0, 1),
        "y": optuna.distributions.FloatDistribution(0, 1),
        "kind": optuna.distributions.CategoricalDistribution([0, 1, 2]),
    }

    def theirs(rows):
        return {"x": rows[:, 0], "y": rows[:, 1], "kind": (rows[:, 2] * 3).astype(int)}

    settings_ = _ParzenEstimatorParameters(1.0, True, False, lambda n: np.ones(n), True)
    estimator = _ParzenEstimator(theirs(rows), space, settings_)
    expected = estimator.log_pdf(theirs(points)) + np.log(3)  # theirs is a probability along categories
    np.testing.assert_allclose(Parzen(rows, columns(PLAIN)).log(points), expected, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(0, 100))
def test_it_is_whole_over_the_cube(count, seed):
    parzen = Parzen(drawn(PLAIN, count, seed), columns(PLAIN))
    even = stats.qmc.Sobol(3, seed=0).random(2**13)
    assert np.exp(parzen.log(even)).mean() == pytest.approx(1.0, abs=0.03)


def test_draws_follow_it():
    rows = np.array([[0.1, 0.2, 0.5], [0.15, 0.9, 0.5], [0.2, 0.4, 0.9]])
    parzen, about = Parzen(rows, columns(PLAIN)), columns(PLAIN)
    found = parzen.draw(4000, np.random.default_rng(0))
    assert ((found >= 0) & (found <= 1)).all()
    edges = np.linspace(0, 1, 11)
    even = stats.qmc.Sobol(3, seed=0).random(2**14)
    share = np.exp(parzen.log(even))
    for column in range(len(about)):
        expected = np.histogram(even[:, column], edges if column < 2 else 3, (0, 1), weights=share)[0] / 2**14
        seen = np.histogram(found[:, column], edges if column < 2 else 3, (0, 1))[0] / 4000
        assert np.abs(seen - expected).max() < 0.025


def test_what_is_not_active_is_uniform_and_is_drawn_from_the_others():
    space = Space({"opt": Categorical(["a", "b"]), "m": Float(0, 1, when=when("opt", "a")), "n": Int(1, 4)})
    rows = np.array([[0.25, 0.8, 0.4], [0.75, np.nan, 0.4], [0.75, np.nan, 0.6]])
    parzen = Parzen(rows, columns(space))
    both = np.array([[0.75, np.nan, 0.4], [0.75, 0.1, 0.4]])
    without, beside = parzen.log(both)
    assert np.isfinite(without) and without > beside, "0.1 is far from the one row that has it"
    assert not np.isnan(parzen.draw(200, np.random.default_rng(0))).any()
    never = Parzen(rows[1:], columns(space)).draw(50, np.random.default_rng(0))
    assert np.isnan(never[:, 1]).all() and not np.isnan(never[:, [0, 2]]).any()
