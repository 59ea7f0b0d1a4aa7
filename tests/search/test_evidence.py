"""What smaller budgets count for: by hand, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from paretune.search import Float, Space
from paretune.search._results import Growing
from paretune.search.samplers import Bohb
from paretune.search.samplers._evidence import kendall, weights

PLAIN = Space({"x": Float(0, 1), "y": Float(0, 1)})


def both(order, count=40):
    """Return results of `count` runs on rung 0, the best 12 of which ran on rung 1, too; order: 1, -1 or 0."""
    generator, growing = np.random.default_rng(0), Growing(2)
    rows = PLAIN.rows(generator.random((count, 2)))
    for index, row in enumerate(rows):
        growing.add(row, float(index), 0)
    chance = generator.permutation(12)
    for index, row in enumerate(rows[:12]):
        growing.add(row, float(chance[index] if order == 0 else order * index), 1)
    return growing.results()


def test_kendall_is_that_of_scipy():
    generator = np.random.default_rng(1)
    a, b = generator.random(30), generator.random(30)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert kendall(a, a) == 1.0 and kendall(a, -a) == -1.0 and kendall(a[:1], b[:1]) == 0.0


def test_weights_by_hand():
    # 12 configurations on both, in the same order: tau (12 * 1 + 4 * 0.5) / 16; shares 40 / 60 and 12 / 32
    tau = 14 / 16
    assert weights(both(1), 1, 12) == {0: pytest.approx(min(1.0, tau**2 * (40 / 60) / (12 / 32)))}
    assert weights(both(-1), 1, 12) == {}, "the contrary order says nothing"
    unsure = weights(both(0), 1, 12)
    assert unsure.get(0, 0.0) < weights(both(1), 1, 12)[0]
    assert weights(both(1), 1, 41) == {} and weights(both(1), 0, 12) == {}


def test_failures_do_not_count():
    growing = Growing(2)
    rows = PLAIN.rows(np.random.default_rng(0).random((6, 2)))
    for rung in (0, 1):
        for index, row in enumerate(rows):
            growing.add(row, np.inf if index > 3 else float(index), rung)
    assert weights(growing.results(), 1, 6) == {0: pytest.approx((6 / 8) ** 2)}  # four agree: (4 + 2) / 8


def test_a_smaller_budget_moves_suggestions_where_its_order_is_right():
    """Rung 0 knows that x must be small; the few runs of rung 1 say nothing of it."""
    generator, growing = np.random.default_rng(3), Growing(2)
    rows = PLAIN.rows(generator.random((60, 2)))
    for row in rows:
        growing.add(row, float(row[0]), 0)
    chosen = rows[np.argsort(np.abs(rows[:, 0] - 0.5))[:12]]
    for row in chosen:
        growing.add(row, float(row[0]), 1)

    def mean(evidence):
        sampler = Bohb(random=0.0, evidence=evidence)
        drawn = [sampler.suggest(PLAIN, growing.results(), np.random.default_rng(n), 100) for n in range(60)]
        return np.mean([each.config["x"] for each in drawn])

    assert mean(1.0) < mean(0.0)
