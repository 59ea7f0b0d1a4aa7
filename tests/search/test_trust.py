"""Whether a budget's order says anything of the next one's: by hand, against SciPy, and what schedules do then."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paretune.search import Float, minimize
from paretune.search._ranking import Point, kendall
from paretune.search._schedule.schedules import Halving, Hyperband
from paretune.search._schedule.trust import Trust, deviation, misleads
from paretune.search.samplers import Bohb


def told(rungs, *orders):
    """Return what is known after configurations 0, 1, ... had these losses on rungs 0, 1, ..."""
    trust = Trust(rungs)
    for rung, losses in enumerate(orders):
        for config, loss in enumerate(losses):
            trust.tell(rung, config, loss)
    return trust


def test_an_order_that_says_nothing_is_left():
    up = list(map(float, range(30)))
    mixed = [float(19 * each % 30) for each in range(30)]
    assert abs(kendall(np.array(up), np.array(mixed))) < 0.05
    assert told(3, up, up, up).lowest == 0
    assert told(3, mixed, up, up).lowest == 1, "the next rung is right again"
    assert told(3, up, mixed, up).lowest == 2, "what is chosen below it is mixed up all the same"
    assert told(3, up[:4], mixed[:4]).lowest == 0, "four say nothing"
    assert told(3, up, up[::-1]).lowest == 1


def test_several_together_tell_what_one_alone_does_not():
    assert not misleads([(9, 0.0)]) and misleads([(9, 0.0)] * 3)
    # by hand: 9 in no relation have a standard deviation of sqrt(2 * 23 / (9 * 9 * 8)) = 0.266
    assert deviation(9) == pytest.approx(0.2664, abs=1e-4)
    assert not misleads([(9, -0.09)]) and misleads([(9, -0.1)]), "0.25 - 1.3 * 0.2664 = -0.0963"
    assert not misleads([]) and not misleads([(1, 0.0), (0, 0.0)]) and not misleads([(4, -1.0)])


def test_the_spread_is_that_of_orders_in_no_relation():
    generator = np.random.default_rng(0)
    drawn = [kendall(generator.random(12), generator.random(12)) for _ in range(4000)]
    assert np.std(drawn) == pytest.approx(deviation(12), rel=0.05)


@given(st.permutations(range(12)), st.integers(2, 12))
def test_tau_is_scipys(places, count):
    a, b = np.arange(count, dtype=float), np.array(places[:count], dtype=float)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_failures_say_nothing_and_points_have_places():
    trust = told(2, [math.inf] * 30, list(map(float, range(30))))
    assert trust.lowest == 0
    up, down = ([Point((float(sign * each), 0.0)) for each in range(30)] for sign in (1, -1))
    assert told(2, up, up).lowest == 0 and told(2, up, down).lowest == 1


@pytest.mark.parametrize("kind", [Hyperband, Halving])
def test_brackets_begin_above_a_budget_that_misleads(kind):
    generator = np.random.default_rng(0)

    def starts(trusting, chance):
        schedule, configs, begun = kind(3, 3, trusting=trusting), 0, []
        losses = {}
        for _ in range(400):
            job = schedule.next()
            config = configs if job.config is None else job.config
            configs += job.config is None
            begun += [job.rung] if job.config is None else []
            loss = generator.random()
            schedule.tell(job, config, loss if chance else losses.setdefault(config, loss))
        return begun[200:]

    assert 0 in starts(trusting=True, chance=True) and 0 in starts(trusting=False, chance=False)
    assert set(starts(trusting=False, chance=True)) == {2}


def test_the_published_variant_trusts_every_budget():
    wary = [sampler.schedule(workers)._trust for sampler in (Bohb(), Bohb(variant="paper")) for workers in (1, 2)]
    assert [trust is None for trust in wary] == [False, False, True, True]
    assert Bohb(trusting=True).schedule(1)._trust is None


def test_a_search_leaves_budgets_that_are_noise():
    """The loss is noise but for full runs: most runs are full ones in the end."""
    generator = np.random.default_rng(1)

    def loss(config, budget):
        return config["x"] if budget == 27 else generator.random()

    found, late = {}, {}
    for trusting in (True, False):
        method = {"bohb": {"min": 1, "max": 27, "trusting": trusting}}
        trials = minimize(loss, {"x": Float(0, 1)}, method, budget={"runs": 160}).trials
        found[trusting] = sum(trial.budget == 27 for trial in trials)
        late[trusting] = sum(trial.budget == 1 for trial in trials[len(trials) // 2 :])
    assert found[False] > 1.25 * found[True]
    assert 3 * late[False] < late[True]
