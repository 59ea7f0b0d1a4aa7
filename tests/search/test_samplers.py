"""Grid, random and Bayesian search: their order and their draws by hand, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

from paretune.errors import InputError, RecipeError
from paretune.search import Categorical, Float, Int, Normal, Space, minimize, when
from paretune.search._results import Results
from paretune.search.samplers import Bayes, Grid, Random
from paretune.search.samplers._base import Exhausted


def suggestions(sampler, space, count, seed=0):
    none = np.empty((0, len(space)))
    results = Results(none, np.empty(0), np.empty(0, np.int64), none)
    return [sampler.suggest(space, results, np.random.default_rng([seed, i]), i).config for i in range(count)]


def test_a_grid_by_hand():
    """The last parameter goes fastest, one that is not active does not multiply, and rules leave points out."""
    space = Space(
        {
            "opt": Categorical(["sgd", "adam"]),
            "momentum": Float(0, 1, when=when("opt", "sgd")),
            "layers": Int(1, 2),
        },
        forbid=["momentum == 1 and layers == 2"],
    )
    points = Grid(points={"momentum": 3}).grid(space)
    assert [tuple(point.values()) for point in points] == [
        ("sgd", 0.0, 1), ("sgd", 0.0, 2), ("sgd", 0.5, 1), ("sgd", 0.5, 2), ("sgd", 1.0, 1),
        ("adam", 1), ("adam", 2),
    ]  # fmt: skip
    assert suggestions(Grid(points=3), space, 7) == list(points)
    with pytest.raises(Exhausted, match="all 7 points"):
        suggestions(Grid(points=3), space, 8)
    shuffled = suggestions(Grid(points=3, shuffle=True, seed=1), space, 7)
    assert shuffled != list(points) and sorted(map(str, shuffled)) == sorted(map(str, points))


def test_points_of_a_grid_lie_evenly_in_the_scale_of_the_parameter():
    space = Space({"lr": Float(1e-4, 1.0, log=True)})
    assert [point["lr"] for point in Grid(points=5).grid(space)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert [point["lr"] for point in Grid(points=1).grid(space)] == pytest.approx([1e-2])
    assert [p["n"] for p in Grid().grid(Space({"n": Int(1, 16, log=True)}))] == list(range(1, 17))
    assert [p["n"] for p in Grid(points={"n": 3}).grid(Space({"n": Int(1, 101)}))] == [1, 51, 101]


def test_a_grid_that_is_too_large_says_what_makes_it_so():
    space = Space({"a": Int(1, 50), "b": Int(1, 40)})
    with pytest.raises(InputError, match=r"up to 2,000 points \(a 50, b 40\), and max_points=100"):
        Grid(max_points=100).grid(space)
    with pytest.raises(RecipeError, match="points of 'x' are 0"):
        Grid(points=0).grid(Space({"x": Float(0, 1)}))


def test_quasi_random_draws_cover_the_space_more_evenly():
    space = Space({f"x{i}": Float(0, 1) for i in range(3)})
    unlike = {}
    for quasi in (True, False):
        drawn = suggestions(Random(quasi=quasi), space, 128)
        rows = np.array([list(config.values()) for config in drawn])
        unlike[quasi] = qmc.discrepancy(rows)
    assert unlike[True] < unlike[False] / 4
    assert suggestions(Random(), space, 4) == suggestions(Random(quasi=True), space, 4)
    assert suggestions(Random(scramble=1), space, 4) != suggestions(Random(), space, 4)


def test_with_a_prior_draws_are_random_and_follow_it():
    space = Space({"x": Float(0, 1, prior=Normal(0.7, 0.1)), "c": Categorical(["a", "b"], weights=[1, 3])})
    drawn = suggestions(Random(), space, 400)
    assert stats.kstest([config["x"] for config in drawn], stats.norm(0.7, 0.1).cdf).pvalue > 0.01
    assert np.mean([config["c"] == "b" for config in drawn]) == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize("model", ["tpe", "gp"])
def test_a_model_beats_random_draws(model):
    space = Space({"x": Float(0, 1), "y": Float(1e-3, 1.0, log=True), "c": Categorical(["a", "b"])})

    def loss(config):
        return (config["x"] - 0.3) ** 2 + (np.log10(config["y"]) + 1) ** 2 + (config["c"] == "a")

    count = 20 if model == "gp" else 60
    ours = [minimize(loss, space, {"bayes": {"model": model}}, budget=count, seed=s).best.loss for s in range(3)]
    theirs = [minimize(loss, space, "random", budget=count, seed=s).best.loss for s in range(3)]
    assert np.median(ours) < np.median(theirs)


def test_bad_settings():
    with pytest.raises(RecipeError, match=r"model='gpp' must be one of tpe, gp. Did you mean 'gp'"):
        Bayes(model="gpp")
    with pytest.raises(RecipeError, match="startup=0 must be at least 1"):
        Bayes(startup=0)
