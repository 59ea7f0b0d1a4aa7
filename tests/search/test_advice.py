"""How many runs a budget is good for, by hand and as studies run; which method suits, by thresholds."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from paretune.search import Float, Limits, minimize
from paretune.search._study.advice import advise, brackets_of, full_runs
from paretune.search._study.plan import expected_runs
from paretune.search.samplers import Asha, Bohb, Hyperband, Random

HALVED = Hyperband(min=1, max=9)


def test_brackets_by_hand():
    assert [(b.rungs, b.sizes) for b in brackets_of(HALVED, 1)] == [
        ((0, 1, 2), (9, 3, 1)), ((1, 2), (3, 1)), ((2,), (3,)),
    ]  # fmt: skip
    assert [b.sizes for b in brackets_of(Asha(min=1, max=9), 2)] == [(9, 3, 1)]
    assert brackets_of(Random(), 1) == ()


@pytest.mark.parametrize(
    ("sampler", "limits", "expected"),
    [
        (HALVED, Limits(trials=13), [9, 3, 1]),
        (HALVED, Limits(trials=11), [9, 2, 0]),
        (HALVED, Limits(trials=20), [9, 6, 5]),  # 9-3-1, 3-1, 3
        (HALVED, Limits(runs=3), [9, 3, 1]),  # 9/9 + 3/3 + 1
        (HALVED, Limits(runs=2.5), [9, 3, 1]),  # what is begun is run to its end
        (Random(), Limits(trials=7), [7]),
        (Random(), Limits(runs=2.5), [3]),
    ],
)
def test_expected_runs_by_hand(sampler, limits, expected):
    assert _counts(sampler, limits) == expected


def _counts(sampler, limits):
    return [row["runs"] for row in expected_runs(sampler, limits)["rungs"]]


@pytest.mark.parametrize("limits", [{"trials": 57}, {"runs": 11.0}])
@pytest.mark.parametrize("sampler", [HALVED, Bohb(min=1, max=27), Random()])
def test_studies_of_one_worker_do_what_was_expected(sampler, limits):
    result = minimize(lambda config: config["x"], {"x": Float(0, 1)}, sampler, budget=limits)
    counts = Counter(trial.rung for trial in result.trials)
    assert _counts(sampler, Limits(**limits)) == [counts[rung] for rung in range(len(sampler.budgets))]
    runs = sum((trial.budget or 1) / (sampler.budgets[-1] or 1) for trial in result.trials)
    assert full_runs([counts[rung] for rung in range(len(sampler.budgets))], sampler.budgets) == pytest.approx(
        runs
    )


@pytest.mark.parametrize(
    ("configurations", "budgets", "runs", "seconds", "method"),
    [
        (12, (None,), 12, None, "grid"), (12, (None,), 11.9, None, "bayes"), (12, (None,), None, None, "bayes"),
        (1001, (None,), 2000, None, "bayes"), (12, (1, 3, 9), 40, None, "grid"),
        (math.inf, (None,), 9, None, "random"), (math.inf, (None,), 10, None, "bayes"),
        (math.inf, (None,), 10_001, None, "random"), (math.inf, (None,), 100, 0.01, "random"),
        (math.inf, (1, 3, 9), 100, 0.01, "random"), (math.inf, (1, 3, 9), 100, 60.0, "bohb"),
        (math.inf, (1, 3, 9), None, None, "bohb"), (math.inf, (1, 3, 9), 1.3, None, "hyperband"),
        (math.inf, (1, 3, 9), 1.4, None, "bohb"), (math.inf, (1, 3, 9), 9, None, "bohb"),
    ],
)  # fmt: skip
def test_advice_threshold_by_threshold(configurations, budgets, runs, seconds, method):
    found = advise(configurations, budgets, runs, seconds)
    assert found.method == method and found.reason


def test_reasons_have_the_figures():
    assert advise(12, (None,), 40).reason == "all 12 configurations fit in the budget of 40 full runs"
    assert "runs on budget 1 cost 0.11 of one on 9" in advise(math.inf, (1, 3, 9), 40).reason
    assert "a run takes 5 ms" in advise(math.inf, (None,), 40, 0.005).reason
