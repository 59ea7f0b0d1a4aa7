"""What a study tells: curves, promotions and counts by hand; importances against Optuna's; much is thinned."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search import Categorical, Constant, Float, Int, Limits, Ordered, Space, Trial, about, when
from paretune.search._look.curves import DOTS, PATHS, thinned
from paretune.search._look.expected import expected_seconds
from paretune.search._look.importance import importances
from paretune.search._look.pace import seconds_left
from paretune.search._look.story import story
from paretune.search._optuna import distribution_of
from paretune.search._study.front import found_by
from paretune.search._study.goals import LOSS_ALONE, goals_of

SPACE = Space(
    {
        "x": Float(0, 1),
        "lr": Float(1e-4, 1, log=True, prior=about(1e-2, within="10x")),
        "opt": Categorical(["sgd", "adam"]),
        "momentum": Float(0, 1, when=when("opt", "sgd")),
        "size": Ordered([8, 16]),
        "kind": Constant("mlp"),
    }
)
BEGIN = datetime(2026, 1, 1)


def ran(number, config_number, rung, loss, at, **other):
    """Return a run that ended `at` seconds after the begin."""
    config = {"x": 0.5, "lr": 0.01, "opt": "adam", "size": 8, "kind": "mlp"}
    fields = {
        "number": number, "config_number": config_number, "config": config, "budget": 3**rung, "rung": rung,
        "bracket": 0, "origin": "random", "seen": 0, "attempt": 1, "loss": loss, "seconds": 2.0, "values": {},
        "error": "" if math.isfinite(loss) else "ValueError: no", "finished": BEGIN + timedelta(seconds=at),
    }  # fmt: skip
    return Trial(**fields | other)


def told(trials, space=SPACE, budgets=(1, 3), goals=LOSS_ALONE, repeats=1):
    found = found_by(trials, goals, repeats, len(budgets) - 1)
    return story(space, trials, budgets, name="s", method="bohb", found=found, repeats=repeats)


def test_a_small_study_by_hand():
    trials = [
        ran(0, 0, 0, 5.0, 2), ran(1, 1, 0, 3.0, 4), ran(2, 2, 0, math.inf, 6), ran(3, 3, 0, 4.0, 1000),
        ran(4, 1, 1, 2.5, 1002), ran(5, 0, 1, 2.0, 1004),
        ran(6, 4, 0, math.inf, 1005, error="lost: the study's process ended"),
        ran(7, 5, 0, math.inf, 0, error="", finished=None),
    ]  # fmt: skip
    trials[-1] = replace(trials[-1], loss=None)
    found = told(trials)
    assert {key: found[key] for key in ("runs", "finished", "failed", "lost", "running")} == {
        "runs": 8, "finished": 5, "failed": 1, "lost": 1, "running": 1,
    }  # fmt: skip
    # each run took 2 s and the pause before 1000 s counts as a minute at most; a run at 1 is a third of a full one
    third = pytest.approx(1 / 3)
    at_three, at_one = found["curves"]
    assert at_one["budget"] == 1 and [point[3] for point in at_one["points"]] == [5.0, 3.0, 3.0]
    assert at_one["points"][0] == [1, third, 2.0, 5.0] and at_one["points"][1][:3] == [
        2,
        pytest.approx(2 / 3),
        4.0,
    ]
    assert at_three["points"] == [
        [5, pytest.approx(4 / 3 + 1), 70.0, 2.5], [6, pytest.approx(4 / 3 + 2), 72.0, 2.0],
        [6, pytest.approx(4 / 3 + 2), 72.0, 2.0],
    ]  # fmt: skip
    assert found["rungs"] == [
        {"budget": 1, "runs": 3, "values": [3.0, 4.0, 5.0]}, {"budget": 3, "runs": 2, "values": [2.0, 2.5]}
    ]  # fmt: skip
    assert found["promotions"] == [
        {"config": 0, "points": [[0, 5.0], [1, 2.0]]}, {"config": 1, "points": [[0, 3.0], [1, 2.5]]}
    ]  # fmt: skip
    assert found["best"]["number"] == 5 and [row["number"] for row in found["table"]] == [5, 4, 1, 3, 0]
    assert found["failures"] == [{"error": "ValueError: no", "runs": 1, "run": 2}]
    assert found["told_at"] == {"budget": 1, "runs": 3}
    (opt,) = [each for each in found["parameters"] if each["name"] == "opt"]
    assert opt["marks"] == [[0.25, "sgd"], [0.75, "adam"]] and opt["prior"] == [1.0, 1.0]
    assert [unit for _, unit in opt["suggested"]] == [0.75] * 6
    momentum = next(each for each in found["parameters"] if each["name"] == "momentum")
    assert momentum["suggested"] == [] and momentum["posterior"] is None
    assert all(each["name"] != "kind" for each in found["parameters"])
    assert [line["rank"] for line in found["coordinates"]["lines"]] == [0.0, 0.5, 1.0]
    names = found["coordinates"]["parameters"]
    assert found["coordinates"]["lines"][0]["units"][names.index("momentum")] is None
    json.dumps(found, allow_nan=False)


def test_runs_that_miss_a_constraint_are_told_behind_the_others():
    goals = goals_of({"accuracy": "max"}, {"ms": "<= 5"})
    runs = [(0.9, 9.0), (0.5, 4.0), (0.7, 5.0), (0.95, 6.0)]
    trials = [
        ran(i, i, 1, -accuracy, 2 * i + 2, values={"accuracy": accuracy, "ms": ms})
        for i, (accuracy, ms) in enumerate(runs)
    ]
    found = told(trials, goals=goals)
    assert found["best"]["number"] == 2 and found["objectives"] == [["accuracy", "max"]]
    (curve,) = found["curves"]
    assert [point[3] for point in curve["points"]] == [0.5, 0.7, 0.7], "as the user has it, and of those that hold"
    assert [row["number"] for row in found["table"]] == [2, 1, 3, 0], "the others by how much they miss"
    assert [row["missed"] for row in found["table"]] == [
        "", "", "ms 6 misses <= 5 by 1", "ms 9 misses <= 5 by 4"
    ]  # fmt: skip
    assert found["rungs"][1]["values"] == [0.95, 0.9, 0.7, 0.5] and found["front"] == found["points"] == []
    none = told(trials[::3], goals=goals)
    assert none["best"] is None and none["nearest"]["number"] == 3 and none["curves"] == []
    json.dumps([found, none], allow_nan=False)


def test_several_objectives_are_told_with_their_front():
    goals = goals_of(["error", "size"])
    runs = [(0.3, 1.0), (0.1, 4.0), (0.4, 5.0), (0.1, 3.0)]
    trials = [
        ran(i, i, 1, error, 2 * i + 2, values={"error": error, "size": size})
        for i, (error, size) in enumerate(runs)
    ]
    found = told([*trials, ran(9, 9, 0, 0.0, 20, values={"error": 0.0, "size": 0.0})], goals=goals)
    assert [run["number"] for run in found["front"]] == [3, 0]
    assert [point["run"] for point in found["points"]] == [1, 2, 3, 0], "full runs alone, the front last"
    assert found["points"][-1] == {"run": 0, "values": [0.3, 1.0]}
    numbers = [row["number"] for row in found["table"]]
    assert numbers[-2:] == [2, 9], "what another one beats in both, then the smaller budget"
    json.dumps(found, allow_nan=False)


def test_all_of_a_front_is_drawn_however_many_runs_there_are():
    goals = goals_of(["error", "size"])
    trials = [
        ran(i, i, 0, float(i % 50), 2 * i, values={"error": float(i % 50), "size": float(50 - i % 50 + (i >= 50))})
        for i in range(2000)
    ]
    found = told(trials, goals=goals)
    numbers = [point["run"] for point in found["points"]]
    front = [run["number"] for run in found["front"]]
    assert len(front) == 50 and numbers[-50:] == front and len(numbers) == DOTS + 50
    assert found["best"]["budget"] == 1, "none was run on the largest budget: what there is, is drawn"


def test_a_repeat_that_is_run_again_has_not_failed():
    trials = [
        ran(0, 0, 1, 1.0, 2), ran(1, 0, 1, math.inf, 4, repeat=1, error="lost: its worker ended"),
        ran(2, 0, 1, math.inf, 0, repeat=1, error="", finished=None, attempt=2),
    ]  # fmt: skip
    trials[-1] = replace(trials[-1], loss=None)
    assert told(trials, repeats=2)["best"]["number"] == 0


def test_repeats_are_told_by_their_mean():
    runs = [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 1.5), (1, 1, 1.9), (2, 0, 0.1)]
    trials = [ran(i, config, 1, loss, 2 * i + 2, repeat=repeat) for i, (config, repeat, loss) in enumerate(runs)]
    found = told(trials, repeats=2)
    (curve,) = found["curves"]
    assert [point[0] for point in curve["points"]] == [2, 4, 5]
    assert [point[3] for point in curve["points"]] == pytest.approx([2.0, 1.7, 1.7])
    assert found["rungs"][1]["values"] == [pytest.approx(1.7), 2.0], "one repeat alone is none"
    assert found["best"]["loss"] == pytest.approx(1.7)


def test_seconds_stand_beside_what_was_expected_before_a_run_ended():
    config = {"lr": 0.01, "opt": "adam", "size": 8, "kind": "mlp"}
    trials = []
    for i in range(60):
        x, rung = (i % 10) / 10, i % 2
        seconds = 3**rung * math.exp(2 * x)
        trials.append(ran(i, i, rung, 1.0, 20 * i, config={"x": x, **config}, seconds=seconds))
    expected = expected_seconds(SPACE, trials, (1, 3))
    assert set(expected) == set(range(5, 60)), "the first five are what the first model is made of"
    late = [abs(math.log(expected[i] / trials[i].seconds)) for i in range(40, 60)]
    assert max(late) < 0.1, late
    # what comes later changes nothing
    other = [*trials[:-1], replace(trials[-1], seconds=9e9)]
    assert expected_seconds(SPACE, other, (1, 3)) == expected
    rows = told(trials)["seconds"]
    assert rows[0]["predicted"] is None and rows[59]["predicted"] == expected[59]
    assert expected_seconds(SPACE, [], (1, 3)) == {}


@pytest.mark.parametrize("trials", [[], [ran(0, 0, 0, math.inf, 1)], [ran(0, 0, 0, 1.0, 1)]])
def test_next_to_nothing_is_told_too(trials):
    found = told(trials)
    json.dumps(found, allow_nan=False)
    assert found["finished"] == sum(not trial.error for trial in trials)


def drawn(space, count, seed, loss):
    """Return rows, configurations and losses of uniform draws."""
    rows = space.rows(np.random.default_rng(seed).random((count, len(space))))
    configs = [space.config(row) for row in rows]
    return rows, configs, np.array([loss(config) for config in configs])


def test_importances_agree_with_optunas():
    space = Space({"x": Float(0, 1), "y": Float(1e-4, 1, log=True), "n": Float(0, 1), "k": Int(1, 8)})

    def loss(config):
        return 4 * (config["x"] - 0.3) ** 2 + 0.1 * abs(math.log10(config["y"]) + 2)

    rows, configs, losses = drawn(space, 400, 1, loss)
    ours = importances(space, rows, losses)
    study = optuna.create_study()
    distributions = {name: distribution_of(space[name]) for name in space.names}
    study.add_trials(
        optuna.trial.create_trial(params=config, distributions=distributions, value=float(value))
        for config, value in zip(configs, losses, strict=True)
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert sum(ours.values()) == pytest.approx(1.0)
    assert all(abs(ours[name] - theirs[name]) < 0.12 for name in space.names), (ours, theirs)
    assert ours["x"] > ours["y"] > max(ours["n"], ours["k"])


def test_what_does_not_vary_or_is_alone_has_no_importance():
    space = Space({"x": Float(0, 1), "kind": Constant(3)})
    rows, _, losses = drawn(space, 50, 0, lambda config: config["x"])
    assert importances(space, rows, losses) == {"x": 1.0, "kind": 0.0}
    assert importances(space, rows[:1], losses[:1]) == {"x": 0.0, "kind": 0.0}


def test_much_is_thinned_and_says_so():
    space = Space({f"p{index}": Float(0, 1) for index in range(15)})
    rows, configs, losses = drawn(space, 3000, 0, lambda config: config["p3"])
    trials = [ran(i, i, 0, float(losses[i]), 2 * i, config=configs[i], seconds=1.0) for i in range(len(rows))]
    found = told(trials, space)
    assert len(found["parameters"]) == 12 and found["parameters"][0]["name"] == "p3"
    assert all(len(each["suggested"]) <= DOTS for each in found["parameters"]) and len(found["seconds"]) <= DOTS
    lines = found["coordinates"]["lines"]
    assert len(lines) == PATHS and lines[0]["value"] == losses.min() and lines[-1]["value"] == losses.max()
    assert sum(line["value"] <= sorted(losses)[99] for line in lines) == 100, "the hundred best are all there"
    assert any("Of 3,000 finished runs" in note for note in found["notes"])
    assert any("Of 15 parameters the 12" in note for note in found["notes"])


@given(st.lists(st.integers()), st.integers(2, 30))
@settings(max_examples=50)
def test_thinned_keeps_order_and_ends(items, most):
    found = thinned(items, most)
    assert len(found) == min(len(items), most) and found[:1] == items[:1] and found[-1:] == items[-1:]
    it = iter(items)
    assert all(any(each == other for other in it) for each in found), "a subsequence"


def test_time_left_goes_at_the_pace_of_the_last_runs():
    slow = [ran(number, number, 0, 1.0, 100 * number) for number in range(10)]
    fast = [ran(10 + number, 10 + number, 1, 1.0, 1000 + 2 * number) for number in range(30)]
    trials = [*slow, *fast]
    # the last 30 ended 2 s apart; 40 were begun, of which 10 at a third: 33 1/3 full ones, and 80 s of work
    assert seconds_left(trials, Limits(trials=50), (1, 3)) == pytest.approx(20.0)
    assert seconds_left(trials, Limits(runs=40.0), (1, 3)) == pytest.approx((40 - 100 / 3) * 2.0)
    assert seconds_left(trials, Limits(work=90.0, trials=1000), (1, 3)) == pytest.approx(10.0)
    assert seconds_left(trials, Limits(trials=30), (1, 3)) == 0.0
    assert seconds_left(trials, Limits(wall=60.0), (1, 3)) is None
    assert seconds_left(trials[:1], Limits(trials=50), (1, 3)) is None


def test_what_a_lost_run_took_is_work_and_it_is_one_run():
    trials = [
        ran(0, 0, 1, 1.0, 10, seconds=5.0),
        ran(1, 1, 1, math.inf, 20, seconds=10.0, error="lost: its worker ended"),
        ran(2, 1, 1, 1.0, 120, seconds=100.0, attempt=2),
    ]
    # 115 of 200 s of work are spent, at a pace of 110 s in 110; two runs of ten were begun, one of them in 110 s
    assert seconds_left(trials, Limits(work=200.0), (1, 3)) == pytest.approx(85.0)
    assert seconds_left(trials, Limits(trials=10), (1, 3)) == pytest.approx(880.0)
