"""The deadline: what is begun ends in time, and the best configuration has its full run; by a simulated clock."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest

from paretune.search import Float, Space, minimize
from paretune.search._cost import fit
from paretune.search._schedule.schedules import Hyperband, Job
from paretune.search._study.deadline import OUTSIDE, Deadline, Finals, Left, deadline_of, left_of
from paretune.search._study.limits import Limits
from paretune.search._study.simulated import Simulated, simulate

SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)})
HALVED = {"hyperband": {"min": 1, "max": 9}}


def told(config, budget):
    """A bowl at x = 0.3, whose runs take from 1 to 4 seconds a budget by y."""
    return (config["x"] - 0.3) ** 2 + 0.1 / (budget or 9), (budget or 9) * 4 ** config["y"]


def study(method, budget, slots=1, seed=0, of=told, storage=None):
    executor = Simulated(of, slots)
    return simulate(executor, SPACE, method, budget, seed=seed, storage=storage), executor.clock()


def test_time_that_is_left_by_hand():
    """60 s of which 20 are over; two runs under way, one with 7 s to go, one over its time; one worker more."""
    limits = Limits(wall=60.0, work=100.0)
    left = left_of(limits, wall=20.0, work=50.0, running=[(10.0, 3.0), (4.0, 6.0)], idle=1)
    assert left == Left(wall=40.0, work=100.0 - 50.0 - 10.0 - 6.0, others=(7.0, 0.0, 0.0))
    assert left.fits(34.0) and not left.fits(35.0), "work"
    assert left.fits(20.0, 14.0) and not left.fits(20.0, 15.0)
    assert left_of(Limits(trials=5), wall=1.0, work=1.0, running=[], idle=0) is None
    busy = Left(wall=10.0, work=math.inf, others=(9.0,))
    assert busy.fits(4.0, 6.0) and not busy.fits(5.0, 6.0) and busy.fits(10.0)


def test_a_full_run_is_due_for_the_best_that_did_not_go_on():
    finals = Finals(top=2)
    assert finals.due() is None
    for config, rung, loss in [(0, 0, 0.5), (1, 0, 0.2), (2, 0, math.inf)]:
        finals.begin(config, rung, 0)
        finals.end(config, rung, 0, loss)
    assert finals.due() == 1
    finals.begin(1, 1, 0)
    assert finals.due() is None, "rung 0's best went on, and is under way"
    finals.end(1, 1, 0, 0.1)
    assert finals.due() == 1
    finals.begin(1, 2, OUTSIDE)
    assert finals.due() is None
    finals.begin(3, 0, 1)
    finals.end(3, 0, 1, 0.01)
    assert finals.due() == 3, "a new best of a lower rung"


def test_a_bracket_that_asks_for_a_full_run_that_was_made_outside_is_told_its_loss():
    schedule, finals = Hyperband(2, 3), Finals(top=1)
    for config in range(3):
        schedule.tell(schedule.next(), config, float(config))
    finals.begin(0, 1, OUTSIDE)
    job = schedule.next()
    assert job == Job(1, 0, 0) and finals.stand_for(job, schedule) and finals.twins == {0: job}
    finals.end(0, 1, OUTSIDE, 0.5)
    other = Hyperband(2, 3)
    for config in range(3):
        other.tell(other.next(), config, float(config))
    assert finals.stand_for(other.next(), other) and other._open[0].done
    assert not finals.stand_for(Job(1, 0, 5), other) and not finals.stand_for(Job(0, 0, None), other)


def test_nothing_is_kept_back_for_a_full_run_that_does_not_fit():
    cost = fit(np.full((6, 1), 0.5), np.ones(6), np.ones(6), np.zeros(6, np.int64), np.zeros(1, np.int64))
    row, budgets = np.array([0.5]), (1, 10)
    takes = float(cost.quantile(row[None], 10.0)[0])
    assert deadline_of(cost, budgets, Left(takes + 0.1, math.inf), row, whole=False) == Deadline(
        cost, budgets, Left(takes + 0.1, math.inf), takes
    )
    assert deadline_of(cost, budgets, Left(takes - 0.1, math.inf), row, whole=True).final == 0.0
    assert deadline_of(None, budgets, Left(5.0, 5.0), row, whole=False) is None, "without a model everything fits"
    assert deadline_of(cost, budgets, None, row, whole=False) is None


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("method", ["hyperband", "asha", "bohb"])
def test_runs_end_in_time_and_the_best_has_its_full_run(method, slots):
    """Of some three to nine full runs on average; below that the model learns too late what a full one takes."""
    late, missed = 0, 0
    for seed, wall in enumerate(range(60, 181, 12)):
        result, ended = study({method: {"min": 1, "max": 9}}, {"wall": wall}, slots, seed)
        late += ended > wall
        assert 0.65 * wall <= ended <= 1.1 * wall
        assert result.ended.startswith(("nothing more fits into the", "wall=")), result.ended
        finished = [trial for trial in result.trials if not trial.error]
        assert result.best.budget == 9
        best = min((trial for trial in finished if trial.budget == 3), key=lambda trial: trial.loss)
        full = {trial.config_number for trial in finished if trial.budget == 9}
        missed += best.config_number not in full  # several workers may find the best at once
        counted = Counter((trial.config_number, trial.budget) for trial in finished)
        assert max(counted.values()) == 1
    assert late <= 1 and missed <= (slots > 1)


def test_a_limit_of_work_is_kept_too():
    for seed in range(4):
        result, _ = study(HALVED, {"work": 100}, slots=2, seed=seed)
        assert sum(trial.seconds for trial in result.trials) <= 105
        assert result.best.budget == 9 and "s of work that are left" in result.ended


def test_methods_of_one_budget_begin_what_fits():
    """Runs of 9 to 36 s: near the end short ones are chosen."""
    result, ended = study("random", {"wall": 200})
    assert 160 < ended <= 200 and result.ended.startswith("nothing more fits")


def test_first_runs_are_not_held_up():
    result, ended = study(HALVED, {"wall": 3.0})
    assert len(result.trials) < 5 and ended >= 3.0 and result.ended == "wall=3"


def test_a_study_that_goes_on_runs_nothing_twice(tmp_path):
    """Cut off by its deadline, with a full run outside of its bracket; then more time, twice."""
    url = f"sqlite:///{tmp_path}/study.db"
    outside = 0
    for wall in (30, 40, 60):
        result, _ = study(HALVED, {"wall": wall}, storage=url)
        outside += any(trial.bracket == OUTSIDE for trial in result.trials)
        counted = Counter((trial.config_number, trial.budget) for trial in result.trials if not trial.error)
        assert max(counted.values()) == 1
    assert outside, "the case did arise"


def test_a_slow_worker_counts_as_slow(tmp_path):
    executor = Simulated(lambda config, budget: (config["x"], 1.0), 2, speeds=(1.0, 4.0))
    url = f"sqlite:///{tmp_path}/study.db"
    result = simulate(executor, SPACE, "random", {"wall": 31}, storage=url)
    assert {trial.worker for trial in result.trials} == {0, 1}
    assert executor.clock() <= 31.01 and result.ended.startswith("nothing more fits")
    again = simulate(executor, SPACE, "random", {"trials": 1}, storage=url)
    assert [trial.worker for trial in again.trials] == [trial.worker for trial in result.trials], "as stored"


def test_a_run_that_hangs_on_does_not_hold_the_others():
    """One run of a rung takes as long as the whole study: the other worker opens the next bracket meanwhile."""
    calls = []

    def one_is_slow(config, budget):
        calls.append(config)
        return config["x"], 500.0 if len(calls) == 4 else float(budget)

    result, _ = study(
        {"hyperband": {"min": 1, "max": 9, "promote": "together"}}, {"trials": 60}, 2, of=one_is_slow
    )
    slow = next(trial for trial in result.trials if trial.seconds == 500.0)
    others = [trial for trial in result.trials if trial.number > slow.number]
    assert len(others) == 56 and {trial.bracket for trial in others} >= {1, 2, 3}
    assert sum(trial.seconds for trial in others) < 500.0


def test_a_real_deadline_is_kept():
    def sleeps(config, budget):
        time.sleep(0.02 * budget)
        return (config["x"] - 0.3) ** 2

    began = time.monotonic()
    result = minimize(sleeps, SPACE, HALVED, budget={"wall": 3})
    assert time.monotonic() - began < 3.5
    assert result.best.budget == 9 and len(result.trials) > 20
