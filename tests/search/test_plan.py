"""The plan: runs by rung counted by hand, against what studies do, and limits that are smaller than one run."""

from __future__ import annotations

import pytest

from paretune.errors import InputError
from paretune.search import Float, Limits, Space
from paretune.search._schedule.schedules import Job
from paretune.search._study.limits import limits_of
from paretune.search._study.method import method_of
from paretune.search._study.plan import Marks, expected_runs, rest
from paretune.search._study.simulated import Simulated, simulate

SPACE = Space({"x": Float(0, 1)})
HALVED = method_of({"hyperband": {"min": 1, "max": 9}})


def counts(told):
    return {rung["budget"]: rung["runs"] for rung in told["rungs"]}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"trials": 13}, {1: 9, 3: 3, 9: 1}),  # the first bracket
        ({"trials": 22}, {1: 9 + 2, 3: 3 + 3, 9: 1 + 1 + 3}),  # the second is 3 and 1, the third 3, two more
        ({"runs": 3}, {1: 9, 3: 3, 9: 1}),  # 9/9 + 3/3 + 1
        ({"runs": 3, "trials": 10}, {1: 9, 3: 1, 9: 0}),
    ],
)
def test_counts_by_hand(budget, expected):
    told = expected_runs(HALVED, limits_of(budget))
    assert counts(told) == expected and told["runs"] == sum(expected.values())
    assert told["full_runs"] == expected[9] and told["seconds"] is None


def test_time_by_hand():
    """A full run takes 9 s, so that the first bracket takes 9 + 9 + 9 s; another 8 s fit eight of the smallest."""
    told = expected_runs(HALVED, limits_of("27s"), seconds_per_full_run=9.0)
    assert counts(told) == {1: 9, 3: 3, 9: 1} and told["seconds"] == pytest.approx(27.0)
    two = expected_runs(method_of("random"), limits_of("30s"), 2, 9.0)
    assert two["runs"] == two["full_runs"] == 6 and two["seconds"] == pytest.approx(27.0)
    assert expected_runs(method_of("random"), limits_of({"work": "30s"}), 2, 9.0)["runs"] == 3
    unknown = expected_runs(HALVED, limits_of("27s"))
    assert unknown["runs"] is None and counts(unknown) == {1: None, 3: None, 9: None}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", ["hyperband", "asha", "random"])
@pytest.mark.parametrize("budget", [{"trials": 60}, {"runs": 12}, {"wall": 100}, {"work": 150}])
def test_studies_do_what_the_plan_says(method, workers, budget):
    settings = {} if method == "random" else {"min": 1, "max": 9}
    executor = Simulated(lambda config, budget: (config["x"], float(budget or 9)), workers)
    result = simulate(executor, SPACE, {method: settings}, budget)
    told = expected_runs(method_of({method: settings}), limits_of(budget), workers, 9.0)
    done = [sum(t.budget == rung["budget"] for t in result.trials) for rung in told["rungs"]]
    for rung, count in zip(told["rungs"], done, strict=True):
        assert abs(rung["runs"] - count) <= 2 + 0.35 * count, (told, done)  # time kept back for a full run


def test_a_plan_far_from_its_limits_grows_in_proportion():
    small, large = (expected_runs(HALVED, limits_of({"trials": n})) for n in (440, 44_000))
    for rung, more in zip(small["rungs"], large["rungs"], strict=True):
        assert more["runs"] == pytest.approx(100 * rung["runs"], rel=0.15)
    assert sum(counts(large).values()) == pytest.approx(44_000, abs=3)
    hour = expected_runs(method_of("random"), limits_of("1h"), 1, 0.01)
    assert hour["runs"] == pytest.approx(360_000, rel=0.01) and hour["seconds"] == pytest.approx(3600, rel=0.01)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"runs": 0.05}, "runs=0.05 is less than one run on the smallest budget, which is 0.111 of a full run; "
         "give at least 0.112"),
        ({"wall": 5}, "wall=5 s is less than one run, which takes about 10 s on the smallest budget; give at "
         "least 10 s"),
        ({"work": "5s"}, "work=5 s is less than one run"),
    ],
)  # fmt: skip
def test_a_budget_smaller_than_one_run(budget, said):
    with pytest.raises(InputError, match=said):
        expected_runs(HALVED, limits_of(budget), seconds_per_full_run=90.0)
    with pytest.raises(InputError, match="seconds of a full run: 0"):
        expected_runs(HALVED, limits_of(budget), seconds_per_full_run=0)


def test_a_study_with_a_budget_smaller_than_one_run_is_refused_and_left_as_it_was(tmp_path):
    """What runs take is known from the study's own: then more time is asked for, and nothing was begun."""
    url = f"sqlite:///{tmp_path}/study.db"
    told = lambda config, budget: (config["x"], 10.0)  # noqa: E731
    with pytest.raises(InputError, match=r"runs=0\.01 is less than one run"):
        simulate(Simulated(told), SPACE, HALVED, {"runs": 0.01}, storage=url)
    simulate(Simulated(told), SPACE, HALVED, {"trials": 8}, storage=url)
    with pytest.raises(InputError, match="wall=3 s is less than one run, which takes about 10 s"):
        simulate(Simulated(told), SPACE, HALVED, {"wall": 3}, storage=url)
    assert len(simulate(Simulated(told), SPACE, HALVED, {"trials": 8, "wall": 3}, storage=url).trials) == 8


def test_plans_are_told_at_the_begin_when_times_are_known_and_at_every_bracket():
    heard = []
    executor = Simulated(lambda config, budget: (config["x"], float(budget)), 1)
    listen = lambda kind, fields: heard.append(fields) if kind == "plan" else None  # noqa: E731
    simulate(executor, SPACE, HALVED, {"wall": 60}, listen=listen)
    assert heard[0]["runs"] is None and heard[0]["finished"] == 0
    assert heard[1]["finished"] == 5 and heard[1]["runs"] > 5 and heard[1]["seconds"] <= 55.1
    assert {plan["bracket"] for plan in heard} >= {0, 1, 2}
    left = [plan["seconds"] for plan in heard[1:]]
    assert left == sorted(left, reverse=True)
    total = heard[1]["finished"] + heard[1]["runs"]
    assert abs(total - 13 - 4 - 3 - 1) <= 4, "27 s for the first bracket, 18 for the second, 15 are left"


def test_marks_by_hand():
    marks = Marks()
    jobs = [(Job(0, 0), 0, False), (Job(0, 0), 1, False), (Job(0, 0), 5, True), (Job(0, 0), 6, True),
            (Job(1, 1), 7, True), (Job(1, 0, 3), 7, True), (Job(0, 0), 8, True), (Job(0, 0), 15, True),
            (Job(0, 0), 40, True), (Job(0, 0), 63, True)]  # fmt: skip
    assert [marks.due(*job) for job in jobs] == [True, False, True, False, True, False, True, False, True, False]


def test_what_is_left_of_limits():
    spent = {"trials": 12, "runs": 3.0, "wall": 70.0, "work": 1.0}
    assert rest(Limits(trials=10, wall=100.0), **spent) == Limits(trials=0, wall=30.0)
    assert rest(Limits(runs=3.5), **spent) == Limits(runs=0.5)
    assert rest(Limits(work=3.0), **spent) == Limits(work=2.0)
