"""Several objectives, constraints, repeats and test values: what counts, what is stored, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import optuna
import pytest

from paretune.errors import InfeasibleError, InputError, RecipeError, RunError
from paretune.search import Float, Space, minimize, resume
from paretune.search._study.goals import goals_of
from paretune.search._study.objective import Outcome, outcome_of
from paretune.search._study.repeats import mean_of, seed_of, wholes

SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)})
HALVED = {"min": 1, "max": 9}
METHODS = ["random", "bayes", {"hyperband": HALVED}, {"bohb": HALVED}, {"bohb": HALVED | {"promote": "alone"}}]
BOTH = {"objectives": ("loss", "size"), "constraints": {"size": "<= 0.6"}}


def valley(config, budget=9):
    """Loss and size pull x to either side; the test value would lead to y = 1, the loss to y = 0."""
    noise = 1 / (budget or 9)
    return {"loss": (1 - config["x"]) ** 2 + config["y"] + noise, "size": config["x"], "test": 1 - config["y"]}


def told(result):
    return [
        (t.config_number, t.config, t.budget, t.repeat, t.loss, t.values) for t in result.trials if not t.error
    ]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_front_is_feasible_on_the_largest_budget_and_nothing_dominates_it(method):
    result = minimize(valley, SPACE, method, budget=60, **BOTH)
    top = [t for t in result.trials if t.rung == max(t.rung for t in result.trials)]
    feasible = [(t.loss, t.values["size"]) for t in top if t.values["size"] <= 0.6]
    best = {p for p in feasible if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in feasible)}
    assert [(t.loss, t.values["size"]) for t in result.front] == sorted(best)
    assert result.best is result.front[0] and result.config == result.front[0].config
    assert told(minimize(valley, SPACE, method, budget=60, **BOTH)) == told(result)


def test_what_goes_on_is_the_front_of_its_rung():
    """Nine run on budget 1; the three of the first fronts go on, feasible ones first."""
    result = minimize(valley, SPACE, {"hyperband": HALVED}, budget={"runs": 3}, **BOTH)
    first = [t for t in result.trials if t.budget == 1]
    on = {t.config_number for t in result.trials if t.budget == 3}
    feasible = [t for t in first if t.values["size"] <= 0.6]
    assert len(first) == 9 and len(on) == 3 < len(feasible) < 9
    assert on <= {t.config_number for t in feasible}
    for trial in feasible:
        beaten = sum(
            o.loss <= trial.loss and o.values["size"] <= trial.values["size"] and o is not trial for o in feasible
        )
        assert beaten < 3 or trial.config_number not in on


@pytest.mark.parametrize("method", METHODS[1:], ids=str)
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_study_that_is_cut_off_goes_on_as_if_it_had_not_been(method, repeats, tmp_path):
    """Stopped by a limit, killed inside of a run, and in one go: the same."""
    how = {"method": method, "repeats": repeats, **BOTH}
    straight = minimize(valley, SPACE, budget=45, **how)
    how["storage"] = f"sqlite:///{tmp_path}/study.db"
    minimize(valley, SPACE, budget=21, **how)
    calls = []

    def killed(config, budget):
        calls.append(config)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return valley(config, budget)

    with pytest.raises(KeyboardInterrupt):
        minimize(killed, SPACE, budget=45, **how)
    result = resume(valley, how["storage"], 45)
    assert sorted(map(str, told(result))) == sorted(map(str, told(straight)))
    assert [t.config for t in result.front] == [t.config for t in straight.front]
    assert sum(bool(t.error) for t in result.trials) == 1


def test_optuna_sees_several_values_and_constraints(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    how = {"objectives": {"loss": "min", "x": "max"}, "constraints": {"size": "<= 0.6", "x": ">= 0.1"}}
    result = minimize(
        lambda c, b: valley(c, b) | {"x": c["x"]}, SPACE, {"bohb": HALVED}, budget=40, storage=url, **how
    )
    study = optuna.load_study(study_name="study", storage=url)
    states, ways = optuna.trial.TrialState, optuna.study.StudyDirection
    assert study.directions == [ways.MINIMIZE, ways.MAXIMIZE] and study.metric_names == ["loss", "x"]
    assert [t.values for t in study.trials] == [[t.loss, t.values["x"]] for t in result.trials]
    for trial, seen in zip(study.trials, result.trials, strict=True):
        assert trial.state == (states.COMPLETE if seen.budget == 9 else states.PRUNED)
        assert trial.constraints == pytest.approx(
            {"size <= 0.6": seen.values["size"] - 0.6, "x >= 0.1": 0.1 - seen.values["x"]}
        )
    assert {t.number for t in study.best_trials} == {t.number for t in result.front}
    assert not any("constraint" in key for t in study.trials for key in t.user_attrs)


def test_what_is_large_may_be_good(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    how = {"objectives": {"accuracy": "max"}, "storage": url}
    accuracy = lambda config: {"accuracy": 1 - (config["x"] - 0.3) ** 2, "loss": 7.0}  # noqa: E731
    result = minimize(accuracy, SPACE, "bayes", budget=40, **how)
    assert abs(result.config["x"] - 0.3) < 0.1 and result.best.values["loss"] == 7.0
    assert result.best.loss == -result.best.values["accuracy"] == min(t.loss for t in result.trials)
    study = optuna.load_study(study_name="study", storage=url)
    assert study.best_value == result.best.values["accuracy"]
    assert resume(accuracy, url, 40).trials[5].loss == result.trials[5].loss
    with pytest.raises(InputError, match=r"has another objectives:\n  there .*max.*\n  here  null"):
        minimize(accuracy, SPACE, "bayes", budget=41, storage=url)


def test_nothing_feasible_says_what_came_nearest():
    result = minimize(valley, SPACE, {"bohb": HALVED}, budget=30, constraints={"size": "<= -1", "loss": ">= 0"})
    assert result.best is None and result.front == ()
    top = [t for t in result.trials if t.budget == 9]
    nearest = min(top, key=lambda t: t.values["size"])
    assert result.found.nearest.number == nearest.number
    assert (
        result.found.missed
        == f"size {nearest.values['size']:.6g} misses <= -1 by {nearest.values['size'] + 1:.6g}"
    )
    with pytest.raises(
        InfeasibleError, match=rf"nearest is run {nearest.number}, whose size .* misses <= -1 by 1"
    ):
        _ = result.config


def test_violations_by_hand():
    goals = goals_of("loss", {"latency": "<= 5", "accuracy": ">= 0.8", "gap": "<= 0"})
    run = Outcome(0.1, 1.0, {"latency": 6.0, "accuracy": 0.6, "gap": 0.5})
    assert goals.violation(run) == pytest.approx(1 / 5 + 0.2 / 0.8 + 0.5)
    assert (
        goals.missed(run)
        == "latency 6 misses <= 5 by 1, accuracy 0.6 misses >= 0.8 by 0.2, gap 0.5 misses <= 0 by 0.5"
    )
    held = Outcome(0.1, 1.0, {"latency": 5.0, "accuracy": 0.8, "gap": -3.0})
    assert goals.violation(held) == 0 and goals.missed(held) == ""
    assert goals_of(("loss", "size"), {"latency": "<= 1e-3"}).to_json() == {
        "objectives": {"loss": "min", "size": "min"},
        "constraints": {"latency": "<= 0.001"},
    }
    read = goals.to_json()
    assert goals_of(read.get("objectives", "loss"), read["constraints"]) == goals
    assert goals_of().to_json() == {} and goals_of().plain and goals_of("loss").plain


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_test_values_lead_nothing_and_are_told_at_the_end(method, tmp_path):
    heard = []
    listen = lambda kind, fields: kind == "run" and heard.append(fields["values"])  # noqa: E731
    with_test = minimize(
        valley, SPACE, method, budget=30, listen=listen, storage=f"sqlite:///{tmp_path}/s.db", **BOTH
    )
    without = minimize(
        lambda c, b: {k: v for k, v in valley(c, b).items() if k != "test"}, SPACE, method, budget=30, **BOTH
    )
    assert [t.config for t in with_test.trials] == [t.config for t in without.trials]
    assert all("test" not in values and "size" in values for values in heard) and len(heard) == 30
    assert with_test.best.values["test"] == 1 - with_test.config["y"]
    assert resume(valley, f"sqlite:///{tmp_path}/s.db", 30).best.values["test"] == with_test.best.values["test"]


def test_repeats_have_seeds_and_folders_of_their_own_and_their_mean_counts(tmp_path):
    seen = []

    def noisy(config, budget, context):
        seen.append((config["x"], budget, context.seed, context.checkpoint_dir.name))
        return {
            "loss": config["x"] + np.random.default_rng(context.seed).normal(0, 0.2),
            "test_acc": context.seed % 7,
        }

    result = minimize(noisy, SPACE, {"hyperband": HALVED}, budget=40, repeats=3, folder=tmp_path)
    top = [t for t in result.trials if t.budget == 9]
    assert {t.repeat for t in result.trials if t.budget < 9} == {0} and {t.repeat for t in top} == {0, 1, 2}
    means = {}
    for number in {t.config_number for t in top}:
        runs = [t for t in top if t.config_number == number]
        if len(runs) == 3:
            losses = [t.loss for t in runs]
            means[number] = (np.mean(losses), np.std(losses, ddof=1) / math.sqrt(3))
            assert len(set(losses)) == 3
    best = min(means, key=lambda number: means[number][0])
    assert result.best.config_number == best and (result.best.loss, result.best.stderr) == pytest.approx(
        means[best]
    )
    values = [t.values["test_acc"] for t in top if t.config_number == best]
    assert result.best.values["test_acc"] == pytest.approx(np.mean(values))
    by_config = {}
    for x, budget, seed, folder in seen:
        by_config.setdefault(x, []).append((budget, seed, folder))
    number, runs = next((n, runs) for n, runs in enumerate(by_config.values()) if len(runs) == 5)
    name = f"config-{number:05}"
    assert [folder for _, _, folder in runs] == [name, name, name, f"{name}-repeat-1", f"{name}-repeat-2"]
    assert len({seed for _, seed, _ in runs}) == 3 and len({seed for _, seed, _ in runs[:3]}) == 1
    assert runs[0][1] == seed_of(0, number, 0) and runs[4][1] == seed_of(0, number, 2)


def test_each_repeat_counts_as_a_full_run_and_is_promoted_as_one():
    result = minimize(valley, SPACE, {"hyperband": HALVED}, budget={"runs": 5}, repeats=3)
    # nine at 1, three at 3, one at 9 three times, which makes five full runs
    assert [t.budget for t in result.trials] == [1] * 9 + [3] * 3 + [9] * 3
    assert result.ended == "runs=5" and result.best.stderr == 0.0
    assert {t.config_number for t in result.trials[-3:]} == {result.best.config_number}


def test_a_configuration_of_which_a_repeat_fails_has_failed():
    def fails(config, budget, context):
        if context.seed == seed_of(0, 0, 1):
            raise ValueError("diverged")
        return config["x"]

    result = minimize(fails, Space({"x": Float(0, 1)}), "random", budget=12, repeats=3)
    assert len({t.config_number for t in result.trials}) == 5 and sum(bool(t.error) for t in result.trials) == 1
    runs = [t for t in result.trials if t.config_number == 0]
    assert len(runs) == 2, "what has failed has no more repeats"
    assert mean_of(runs).loss == math.inf and mean_of(runs).error == "ValueError: diverged"
    assert result.best.config_number != 0


def test_an_unfinished_set_of_repeats_is_told_only_where_there_is_no_other():
    result = minimize(lambda c: c["x"], SPACE, "random", budget=2, repeats=3)
    assert result.best.config_number == 0 and result.best.stderr == 0.0
    whole = wholes(minimize(lambda c: -c["x"], SPACE, "random", budget=5, repeats=3).trials, 3, 0)
    assert [t.config_number for t in whole] == [0]


def test_several_goals_on_workers_of_their_own(monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import objectives

    result = minimize(
        objectives.two,
        {"x": Float(0, 1)},
        {"bohb": HALVED},
        budget=40,
        workers=2,
        repeats=2,
        objectives=("loss", "size"),
    )
    assert len(result.trials) == 40 and not any(t.error for t in result.trials)
    top = [t for t in result.trials if t.budget == 9]
    assert max(sum(t.config_number == n for t in top) for n in {t.config_number for t in top}) == 2
    assert all(t.stderr is not None for t in result.front)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"loss": 1.0}, "the loss alone, without 'size'; return a dict of both"),
        (0.5, "the loss alone, without 'size'"),
        ({"loss": 1.0, "sise": 2.0}, "a dict without 'size': loss, sise. Did you mean 'sise'"),
        ({"size": 1.0, "latency": 1.0}, "a dict without 'loss': size, latency"),
        ({"loss": 1.0, "size": math.nan}, "size is nan"),
        ({"loss": 1.0, "size": 1.0}, "a dict without 'latency': loss, size"),
        ({"loss": 1.0, "size": 1.0, "latency": math.inf}, "latency is inf"),
        ({"loss": 1.0, "size": "big", "latency": 1.0}, "size='big', which is no real number"),
    ],
)
def test_a_run_without_what_is_asked_for_has_failed(returned, reason):
    how = {"objectives": ("loss", "size"), "constraints": {"latency": "<= 1"}}
    with pytest.raises(RunError, match=f"5 of 5 runs failed.*{reason}"):
        minimize(lambda config: returned, SPACE, "random", budget=20, **how)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"objectives": ()}, InputError, r"objectives: \(\) must be names"),
        ({"objectives": 3}, InputError, "objectives: 3 must be names"),
        ({"objectives": ("loss", "loss")}, InputError, "'loss' is there twice"),
        ({"objectives": ("loss", 2)}, InputError, "objectives: 2 must be the name"),
        ({"objectives": {"loss": "mn"}}, RecipeError, "loss='mn' must be one of min, max. Did you mean 'min'"),
        ({"objectives": ("loss", "test_acc")}, InputError, "'test_acc' is kept for the end"),
        ({"constraints": {"test": "<= 1"}}, InputError, "constraints: 'test' is kept for the end"),
        ({"constraints": ["size"]}, InputError, r"constraints: \['size'\] must be names with bounds"),
        ({"constraints": {"size": "< 1"}}, InputError, "size: '< 1' must be '<= number' or '>= number'"),
        ({"constraints": {"size": "<= many"}}, InputError, "'<= many' must be"),
        ({"constraints": {"size": "<= nan"}}, InputError, "'<= nan' must be"),
        ({"constraints": {"size": 5}}, InputError, "size: 5 must be"),
        ({"repeats": 0}, InputError, "repeats=0 must be a whole number"),
        ({"repeats": 1.5}, InputError, "repeats=1.5 must be a whole number"),
    ],
)
def test_bad_goals(how, error, said):
    with pytest.raises(error, match=said):
        minimize(valley, SPACE, "random", budget=3, **how)


def test_other_goals_are_refused_and_the_study_is_left_as_it_was(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(valley, SPACE, "random", budget=6, storage=url, repeats=2, **BOTH)
    for other, said in (
        (BOTH | {"objectives": ("size", "loss")}, "another objectives"),
        (BOTH | {"objectives": "loss"}, "another objectives"),
        ({"objectives": BOTH["objectives"]}, "another constraints"),
        (BOTH | {"repeats": 3}, "another repeats:\n  there 2\n  here  3"),
    ):
        with pytest.raises(InputError, match=said):
            minimize(valley, SPACE, "random", budget=9, storage=url, **{"repeats": 2} | other)
    assert len(resume(valley, url, 8).trials) == 8
    assert json.dumps(resume(valley, url, 8).found.to_json())


def test_an_outcome_is_judged_once():
    plain = goals_of()
    assert plain.judge(outcome_of(0.5, 1.0)) == Outcome(0.5, 1.0)
    assert plain.judge(outcome_of({"loss": 0.5, "size": 2}, 1.0)) == Outcome(0.5, 1.0, {"size": 2.0})
    largest = goals_of({"size": "max"}).judge(outcome_of({"loss": 0.5, "size": 2}, 1.0))
    assert largest == Outcome(-2.0, 1.0, {"loss": 0.5, "size": 2.0})
    assert goals_of("size").judge(outcome_of({"size": 2}, 1.0)) == Outcome(2.0, 1.0, {"size": 2.0})


@pytest.mark.parametrize("method", ["random", "bayes", "optuna.TPESampler", {"bohb": {"min": 1, "max": 9}}])
@pytest.mark.parametrize("way", ["min", "max"])
def test_one_objective_of_another_name(method, way):
    sign = 1 if way == "min" else -1
    loss = lambda config: {"score": sign * (config["x"] - 0.3) ** 2}  # noqa: E731
    result = minimize(loss, {"x": Float(0, 1)}, method, 25, objectives={"score": way})
    assert len(result.trials) == 25 and abs(result.config["x"] - 0.3) < 0.3
