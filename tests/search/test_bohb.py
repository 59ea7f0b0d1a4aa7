"""BOHB's sampler: what it models when, against a slow copy of the published formulas, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from paretune.search import Categorical, Float, Normal, Space, minimize, when
from paretune.search._results import Growing, Results
from paretune.search.samplers._bohb import Bohb

PAPER = Bohb(variant="paper")
PLAIN = Space({"x": Float(0, 1), "y": Float(0, 1)})


def results_of(space, losses, rungs=None, seed=0):
    rows = space.rows(np.random.default_rng(seed).random((len(losses), len(space))))
    growing = Growing(len(space))
    for row, loss, rung in zip(rows, losses, rungs or [0] * len(losses), strict=True):
        growing.add(row, loss, rung)
    return growing.results()


def test_results_grow_and_views_stay():
    growing = Growing(2)
    growing.add(np.array([0.1, 0.2]), math.nan, 0)
    first = growing.results()
    for index in range(40):
        growing.add(np.array([0.5, 0.5]), float(index), index % 3)
    assert len(first) == 1 and first.losses.tolist() == [math.inf]
    rows, losses = growing.results().at(2)
    assert len(rows) == 13 and losses[0] == 2.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 5}, None),
        ({0: 6}, (0, 3, 3)),  # d + 1 good of 2 (d + 1), the paper's least
        ({0: 40}, (0, 6, 34)),  # 15 % of 40
        ({0: 40, 1: 6}, (1, 3, 3)),  # the largest budget that has enough
        ({0: 40, 1: 5}, (0, 6, 34)),
    ],
)
def test_the_published_model_by_hand(counts, expected):
    losses = [float(i) for n in counts.values() for i in range(n)]
    rungs = [rung for rung, n in counts.items() for _ in range(n)]
    results, generator = results_of(PLAIN, losses, rungs), np.random.default_rng(0)
    rung = PAPER.model(results)
    if expected is None:
        assert rung is None
        return
    assert rung == expected[0] and PAPER.joined(results, rung, generator)
    good, bad = PAPER.split(results, rung, generator)
    assert (len(good), len(bad)) == expected[1:]
    np.testing.assert_array_equal(good, results.at(rung)[0][: len(good)])


def test_marginals_come_early_and_half_of_the_draws_stay_with_them():
    space = Space({f"x{i}": Float(0, 1) for i in range(10)})
    generator = np.random.default_rng(0)
    few = results_of(space, list(np.arange(12.0)))
    assert Bohb().model(results_of(space, list(np.arange(11.0)))) is None
    assert Bohb().model(few) == 0 and not any(Bohb().joined(few, 0, generator) for _ in range(20))
    many = results_of(space, list(np.arange(22.0)))
    share = np.mean([Bohb().joined(many, 0, generator) for _ in range(400)])
    assert share == pytest.approx(0.5, abs=0.1)


def slow_suggestions(rows, losses, count, generator):
    """HpBandSter's recipe for numbers, written out: one candidate at a time."""
    order = np.argsort(losses)
    good, bad = rows[order[:6]], rows[order[6:]]

    def density(x, data):
        widths = np.maximum(1.06 * data.std(0) * len(data) ** (-1 / (4 + data.shape[1])), 1e-3)
        return np.mean(np.prod(stats.norm.pdf((x - data) / widths) / widths, axis=1))

    widths = np.maximum(1.06 * good.std(0) * len(good) ** (-1 / (4 + good.shape[1])), 1e-3) * 3
    found = []
    for _ in range(count):
        best, chosen = math.inf, None
        for _ in range(64):
            datum = good[generator.integers(len(good))]
            x = stats.truncnorm.rvs(-datum / widths, (1 - datum) / widths, datum, widths, random_state=generator)
            ratio = max(density(x, bad), 1e-32) / max(density(x, good), 1e-32)
            if ratio < best:
                best, chosen = ratio, x
        found.append(chosen)
    return np.array(found)


def test_the_published_variant_draws_as_its_authors_code_does():
    """A fixed history of 40 runs in the middle of the square, where kernels hardly leak: the same distribution."""
    generator = np.random.default_rng(1)
    rows = 0.3 + 0.4 * generator.random((40, 2))
    losses = ((rows - 0.45) ** 2).sum(1)
    results = Results(rows, losses, np.zeros(40, np.int64), np.empty((0, 2)))
    paper = Bohb(variant="paper", random=0.0)
    ours = np.array([paper.suggest(PLAIN, results, generator, 0).row for _ in range(150)])
    theirs = slow_suggestions(rows, losses, 150, generator)
    for column in range(2):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
    uniform = generator.random(150)
    assert stats.ks_2samp(ours[:, 0], uniform).pvalue < 1e-6, "the test can tell distributions apart"


@pytest.mark.parametrize("sampler", [Bohb(), PAPER], ids=["default", "paper"])
def test_it_finds_the_good_corner_within_rules_and_branches(sampler):
    space = Space(
        {
            "opt": Categorical(["sgd", "adam", "rms"]),
            "momentum": Float(0, 1, when=when("opt", "sgd")),
            "lr": Float(1e-5, 1e-1, log=True),
        },
        forbid=["opt == 'sgd' and lr > 1e-2"],
    )

    def loss(config):
        own = {"sgd": 0.0, "adam": 1.0, "rms": 1.0}[config["opt"]]
        return own + abs(math.log10(config["lr"]) + 3) + abs(config.get("momentum", 0.0) - 0.8)

    generator, growing = np.random.default_rng(0), Growing(len(space))
    seen, origins = [], []
    for _ in range(150):
        made = sampler.suggest(space, growing.results(), generator, 0)
        row, config, origin = made.row, made.config, made.origin
        assert space.allowed(config) and space.config(space.row(config)) == config
        growing.add(row, loss(config), 0)
        seen.append(loss(config))
        origins.append(origin)
    share = 1 / 3 if sampler.variant == "paper" else 1 / 5
    assert abs(np.mean([origin == "random" for origin in origins[40:]]) - share) < 0.12
    assert np.median(seen[100:]) < 0.6 * np.median(seen[:20])


def test_failed_runs_are_bad_ones():
    rows = np.random.default_rng(0).random((60, 2))
    losses = np.where(rows[:, 0] > 0.5, np.inf, rows[:, 1])
    results = Results(rows, losses, np.zeros(60, np.int64), np.empty((0, 2)))
    generator = np.random.default_rng(1)
    drawn = np.array([Bohb(random=0.0).suggest(PLAIN, results, generator, 0).row for _ in range(100)])
    assert np.mean(drawn[:, 0] < 0.5) > 0.85


def test_the_same_seed_gives_the_same():
    results = results_of(PLAIN, list(np.arange(30.0)))
    first, second = (Bohb().suggest(PLAIN, results, np.random.default_rng(3), 0) for _ in range(2))
    assert first.config == second.config and np.array_equal(first.row, second.row)


def test_a_right_prior_helps_and_a_wrong_one_is_overruled():
    """Ten numbers whose best values are at 0.9: believed to be there, or at 0.1, or nothing believed."""

    def found(prior, seed):
        space = Space({f"x{i}": Float(0, 1, prior=prior) for i in range(10)})
        loss = lambda config: sum(abs(value - 0.9) for value in config.values())  # noqa: E731
        result = minimize(loss, space, {"bohb": {"min": 1, "max": 9}}, budget=150, seed=seed)
        return min(trial.loss for trial in result.trials)

    priors = (Normal(0.9, 0.2), None, Normal(0.1, 0.2))
    right, none, wrong = (np.median([found(prior, seed) for seed in range(5)]) for prior in priors)
    assert right < 0.9 * none and wrong < 1.5 * none


def test_draws_without_a_model_are_the_priors_and_half_leave_them_aside():
    space = Space({"x": Float(0, 1, prior=Normal(0.9, 0.02))})
    generator, none = np.random.default_rng(0), results_of(space, [])
    drawn = np.array([Bohb().suggest(space, none, generator, 0).config["x"] for _ in range(400)])
    assert np.mean(drawn > 0.8) == pytest.approx(0.5 + 0.5 * 0.2, abs=0.08)
    origins = {Bohb().suggest(space, none, generator, 0).origin for _ in range(30)}
    assert origins == {"prior", "random"}
    assert {Bohb().suggest(PLAIN, results_of(PLAIN, []), generator, 0).origin for _ in range(5)} == {"random"}


def test_a_long_history_costs_no_more():
    """Of many runs the best good ones and a draw of the others are the kernels; all of them, as published."""
    results = results_of(PLAIN, list(np.arange(6000.0)))
    good, bad = Bohb().split(results, 0, np.random.default_rng(0))
    assert len(good) == len(bad) == 512
    np.testing.assert_array_equal(good, results.rows[:512])
    assert len({tuple(row) for row in bad} & {tuple(row) for row in results.rows[900:]}) == 512
    good, bad = PAPER.split(results, 0, np.random.default_rng(0))
    assert (len(good), len(bad)) == (900, 5100)


def test_with_cost_it_draws_where_runs_are_fast():
    """The loss is of x alone, the time of y alone: with cost y is low, without it is as it comes; x is as good."""
    rows = np.random.default_rng(0).random((60, 2))
    seconds = np.exp(2 * rows[:, 1])
    results = Results(
        rows, np.abs(rows[:, 0] - 0.3), np.zeros(60, np.int64), rows[:0], seconds, np.zeros(60, np.int64)
    )
    drawn = {}
    for cost in (False, True):
        generator = np.random.default_rng(1)
        sampler = Bohb(random=0.0, cost=cost)
        drawn[cost] = np.array([sampler.suggest(PLAIN, results, generator, 0).row for _ in range(100)])
    assert drawn[True][:, 1].mean() < drawn[False][:, 1].mean() - 0.15
    for each in drawn.values():
        assert np.median(np.abs(each[:, 0] - 0.3)) < 0.12
    few = results_of(PLAIN, list(np.arange(30.0)))
    blind, aware = (Bohb(cost=c).suggest(PLAIN, few, np.random.default_rng(3), 0).config for c in (False, True))
    assert blind == aware, "without times there is no cost"
