"""A study: limits, what is stored and how Optuna sees it, resumption after a crash, failures, and bad input."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from datetime import datetime

import numpy as np
import optuna
import pytest

from paretune.errors import InputError, RecipeError, RunError
from paretune.methods import registry
from paretune.search import Categorical, Constant, Float, Int, Limits, Ordered, Space, minimize, resume, when
from paretune.search._study.auto import settled
from paretune.search._study.limits import limits_of
from paretune.search._study.objective import arity, call, outcome_of
from paretune.search._study.plain import space_from_json, space_to_json
from paretune.search._study.storage import Store

SPACE = Space(
    {
        "opt": Categorical(["sgd", "adam"]),
        "lr": Float(1e-5, 1e-1, log=True),
        "momentum": Float(0, 1, when=when("opt", "sgd")),
        "layers": Int(1, 4),
        "size": Ordered([8, 16, 32]),
        "kind": Constant("mlp"),
    },
    forbid=["layers == 4 and size == 32"],
)
HALVED = {"min": 1, "max": 9}


def loss_of(config, budget=9):
    return (
        abs(math.log10(config["lr"]) + 3) + 0.1 * config["layers"] + (config["opt"] == "adam") + 1 / (budget or 1)
    )


def method(name):
    return {name: {"points": 2} if name == "grid" else HALVED if name in ("bohb", "hyperband", "asha") else {}}


@pytest.mark.parametrize("name", registry("samplers"))
def test_every_method_holds_the_contract(name):
    seen = []

    def objective(config, budget, context):
        assert SPACE.allowed(config) and SPACE.config(SPACE.row(config)) == config
        seen.append((config, budget, context.seed))
        return loss_of(config, budget)

    result = minimize(objective, SPACE, method(name), budget=40)
    assert len(result.trials) == 40 == len(seen) and result.ended == "trials=40"
    assert result.best.loss == min(t.loss for t in result.trials if t.rung == result.best.rung)
    budgets = {trial.budget for trial in result.trials}
    assert budgets == ({1, 3, 9} if name in ("bohb", "hyperband", "asha") else {None})
    runs = {(trial.config_number, trial.budget) for trial in result.trials}
    assert len(runs) == 40, "no run twice"
    seeds = {}
    for trial, (_, _, seed) in zip(result.trials, seen, strict=True):
        assert seeds.setdefault(trial.config_number, seed) == seed
    again = minimize(objective, SPACE, method(name), budget=40)
    assert [(t.config, t.budget, t.loss) for t in again.trials] == [
        (t.config, t.budget, t.loss) for t in result.trials
    ]
    if name != "grid":
        other = minimize(objective, SPACE, method(name), budget=40, seed=1)
        assert name == "random" or [t.config for t in other.trials] != [t.config for t in result.trials]


@pytest.mark.parametrize("name", registry("samplers"))
def test_a_study_that_is_cut_off_goes_on_as_if_it_had_not_been(name, tmp_path):
    """Stopped by a limit, killed inside of a run, and the same in one go: the same configurations and results."""
    how = {"method": method(name), "storage": f"sqlite:///{tmp_path}/study.db"}
    straight = minimize(loss_of, SPACE, method(name), budget=30)
    minimize(loss_of, SPACE, budget=9, **how)
    calls = []

    def killed(config, budget):
        calls.append(config)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss_of(config, budget)

    with pytest.raises(KeyboardInterrupt):
        minimize(killed, SPACE, budget=30, **how)
    result = minimize(loss_of, SPACE, budget=30, **how)
    counted = [trial for trial in result.trials if not trial.error]
    assert len(counted) == 30
    assert {(t.config_number, t.budget, t.loss) for t in counted} == {
        (t.config_number, t.budget, t.loss) for t in straight.trials
    }
    (lost,) = [trial for trial in result.trials if trial.error]
    (anew,) = [trial for trial in result.trials if trial.attempt == 2]
    assert lost.error.startswith("lost: the study's process ended") and (anew.config, anew.rung) == (
        lost.config,
        lost.rung,
    )
    assert result.best.config == straight.best.config


def test_a_run_that_is_lost_three_times_is_given_up(tmp_path):
    how = {"method": "random", "storage": f"sqlite:///{tmp_path}/study.db"}

    def deadly(config):
        if deadly.alive:
            return 1.0
        raise KeyboardInterrupt

    deadly.alive = False
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            minimize(deadly, SPACE, budget=5, **how)
    deadly.alive = True
    result = minimize(deadly, SPACE, budget=5, **how)
    assert [trial.attempt for trial in result.trials if trial.config_number == 0] == [1, 2, 3]
    assert all(trial.error for trial in result.trials if trial.config_number == 0)
    assert sum(not trial.error for trial in result.trials) == 4


def test_a_lost_run_is_done_again_where_its_next_attempt_was_not_stored(tmp_path, monkeypatch):
    """Found by benchmarks/crash.py: killed between storing that a run was lost and that it begins again."""
    how = {"method": {"hyperband": HALVED}, "budget": 20, "storage": f"sqlite:///{tmp_path}/study.db"}
    straight = minimize(loss_of, SPACE, how["method"], 20)
    calls = []

    def killed(config, budget):
        calls.append(config)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss_of(config, budget)

    def begins(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize(killed, SPACE, **how)
    for _ in range(3):  # it is lost once, however often the study is begun in vain
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Store, "begin", begins)
            minimize(loss_of, SPACE, **how)
    result = minimize(loss_of, SPACE, **how)
    kept = [(trial.config, trial.budget, trial.loss) for trial in result.trials if not trial.error]
    assert len(kept) == 20 and all((t.config, t.budget, t.loss) in kept for t in straight.trials)
    assert [trial.attempt for trial in result.trials if trial.config_number == 7][:2] == [1, 2]


def test_optuna_sees_an_ordinary_study(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    result = minimize(loss_of, SPACE, {"bohb": HALVED}, budget=30, storage=url, name="mine")
    study = optuna.load_study(study_name="mine", storage=url)
    states = optuna.trial.TrialState
    assert study.best_trial.number == result.best.number and study.best_value == result.best.loss
    for trial, seen in zip(study.trials, result.trials, strict=True):
        assert trial.state == (states.COMPLETE if seen.budget == 9 else states.PRUNED)
        assert trial.value == seen.loss and trial.user_attrs["budget"] == seen.budget
        assert seen.budget == 9 or trial.intermediate_values == {seen.rung: seen.loss}
        assert trial.params == {name: value for name, value in seen.config.items() if name != "kind"}
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_finite_space_ends_and_says_so():
    space = Space({"a": Int(0, 2), "b": Categorical(["x", "y"])})
    for how in ("random", {"bohb": {"min": 1, "max": 3, "early": 4}}):
        result = minimize(lambda config: config["a"], space, how, budget=200)
        tried = {(trial.config["a"], trial.config["b"]) for trial in result.trials}
        assert len(tried) == 6 and result.ended == "all 6 configurations were tried"
    result = minimize(lambda config: config["a"], space, "grid", budget=200)
    assert [trial.config for trial in result.trials] == [{"a": a, "b": b} for a in range(3) for b in "xy"]
    assert result.ended == "all 6 points of the grid were tried"


@pytest.mark.parametrize("promote", ["together", "alone"])
def test_a_space_smaller_than_a_rung_has_its_full_run(promote, tmp_path):
    """Four configurations where 27 would be begun: the best goes on to the top, also after the study was left."""
    space, method = Space({"a": Int(0, 3)}), {"bohb": {"min": 1, "max": 27, "promote": promote}}
    stored = f"sqlite:///{tmp_path}/study.db"
    for trials in (3, 5, 100):
        result = minimize(lambda config: config["a"], space, method, budget=trials, storage=stored)
    budgets = {number: [t.budget for t in result.trials if t.config["a"] == number] for number in range(4)}
    assert result.best.budget == 27 and result.best.config == {"a": 0}
    assert budgets[0] == [1, 3, 9, 27][-len(budgets[0]) :] and all(budgets.values())
    assert result.ended == "all 4 configurations were tried"


def test_limits_by_hand():
    assert limits_of("30min") == Limits(wall=1800.0) and limits_of(7) == Limits(trials=7)
    assert limits_of({"runs": 2, "work": "90s"}) == Limits(runs=2.0, work=90.0)
    # of budgets 1, 3 and 9, full runs are counted: nine at 1, then three at 3, one at 9: three full runs
    result = minimize(loss_of, SPACE, {"hyperband": HALVED}, budget={"runs": 3})
    assert [trial.budget for trial in result.trials] == [1] * 9 + [3] * 3 + [9]
    assert result.ended == "runs=3"
    result = minimize(loss_of, SPACE, "random", budget={"wall": "0.2s", "trials": 10_000})
    assert result.ended == "wall=0.2" or result.ended.startswith("nothing more fits into the")


def test_failures_are_the_worst_results_and_the_study_goes_on():
    def sometimes(config):
        if config["layers"] == 1:
            raise ValueError("too few layers")
        return math.nan if config["layers"] == 2 and config["size"] == 8 else loss_of(config)

    result = minimize(sometimes, SPACE, "random", budget=40)
    failed = [trial for trial in result.trials if trial.error]
    assert {trial.error for trial in failed} == {"ValueError: too few layers", "the loss is nan"}
    assert all(trial.loss == math.inf for trial in failed) and not result.best.error


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, r"returned nothing \(None\)"),
        ("0.5", r"returned '0.5' \(str\)"),
        (1j, "returned 1j"),
        ([1, 2], r"returned \[1, 2\]"),
        ({"los": 1}, "a dict without 'loss': los"),
        ({"loss": 1, "size": "big"}, "size='big', which is no real number"),
        (math.inf, "the loss is inf"),
        (True, "returned True"),
    ],
)
def test_what_is_no_loss_is_told(returned, reason):
    with pytest.raises(RunError, match=f"5 of 5 runs failed.*{reason}"):
        minimize(lambda config: returned, SPACE, "random", budget=20)


def test_what_else_is_returned_is_kept():
    assert outcome_of({"loss": np.float32(0.5), "latency": 3}, 1.0).values == {"latency": 3.0}
    result = minimize(lambda config: {"loss": 1.0, "test": 2.0}, SPACE, "random", budget=2)
    assert result.trials[0].values == {"test": 2.0}


def test_signatures():
    assert arity(lambda config: 0) == 1 and arity(lambda config, budget: 0) == 2
    assert arity(lambda c, b, ctx: 0) == 3 and arity(lambda *a: 0) == 3
    assert arity(lambda config, extra=3: 0) == 1 and call(lambda config, extra=3: extra, {}, 1, None).loss == 3
    for wrong in (lambda: 0, lambda a, b, c, d: 0, lambda config, *, needed: 0):
        with pytest.raises(InputError, match="must take"):
            arity(wrong)
    with pytest.raises(InputError, match="the objective is a int"):
        arity(3)


def test_checkpoints_go_on_at_the_next_budget(tmp_path):
    def goes_on(config, budget, context):
        file = context.checkpoint_dir / "epochs"
        done = int(file.read_text()) if file.exists() else 0
        file.write_text(str(budget))
        return {"loss": loss_of(config, budget), "paid": budget - done}

    result = minimize(goes_on, SPACE, {"hyperband": HALVED}, budget={"runs": 3}, folder=tmp_path)
    paid = [(trial.budget, trial.values["paid"]) for trial in result.trials]
    assert paid == [(1, 1)] * 9 + [(3, 2)] * 3 + [(9, 6)]


def test_spaces_are_written_and_read():
    written = space_to_json(SPACE)
    assert space_to_json(space_from_json(written)) == written
    read = space_from_json(
        {
            "lr": {"float": ["1e-5", 1e-1], "log": True, "prior": {"about": "3e-4", "within": "10x"}},
            "opt": {"categorical": ["sgd", "adam"], "weights": [1, 3]},
            "momentum": {"float": [0, 0.99], "when": {"opt": "sgd"}},
            "depth": {"int": [1, 5], "when": {"opt": ["sgd", "adam"]}},
            "fixed": 3,
        },
        forbid=["lr > 1e-2 and opt == 'adam'"],
    )
    assert read["momentum"].when.text == "opt == 'sgd'" and read["fixed"] == Constant(3)
    assert space_to_json(space_from_json(space_to_json(read))) == space_to_json(read)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"lr": {"flot": [0, 1]}}, "lr: flot names no kind.* Did you mean 'float'"),
        ({"lr": {"float": [0, 1], "int": [0, 1]}}, "names 2 kind"),
        ({"lr": {"float": [0, 1], "lgo": True}}, "lr: no key 'lgo' with float. Did you mean 'log'"),
        ({"lr": {"float": [0]}}, r"lr: float: \[0\] must be \[low, high\]"),
        ({"lr": {"float": [1, 0]}}, "space: lr: Float: low=1 must be below high=0"),
        ({"lr": {"float": [0, 1], "when": {}}}, "names no parameter"),
        ([1], "space: it must be a mapping"),
    ],
)
def test_bad_files(content, said):
    with pytest.raises(InputError, match=said):
        space_from_json(content)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"method": "bohbb"}, InputError, "no method 'bohbb' in samplers. Did you mean 'bohb'"),
        ({"method": {"bohb": {"mix": 1}}}, RecipeError, "no setting 'mix'"),
        ({"method": {"bohb": {"min": 9, "max": 9}}}, InputError, "min=9 equals max"),
        ({"method": {"bohb": {"eta": 1}}}, InputError, "eta=1"),
        ({"method": {"bohb": {"promote": "alon"}}}, RecipeError, "Did you mean 'alone'"),
        ({"method": {"bohb": {"variant": "papper"}}}, RecipeError, "Did you mean 'paper'"),
        ({"method": {"bohb": {}, "random": {}}}, InputError, "one name with its settings"),
        ({"method": "grid"}, InputError, "'lr' is continuous; say how many values"),
        ({"method": {"grid": {"points": 500}}}, InputError, r"grid: up to .* points \(lr 500, momentum 500"),
        ({"method": {"grid": {"points": {"lx": 3}}}}, InputError, "no parameter 'lx'. Did you mean 'lr'"),
        ({"budget": "30mins"}, InputError, "no unit 'mins'. Did you mean 'min'"),
        ({"budget": 0}, InputError, "must be a whole number of runs"),
        ({"budget": {"wal": "1h"}}, InputError, "no limit 'wal'. Did you mean 'wall'"),
        ({"budget": {"runs": -1}}, InputError, "runs=-1 must be a number above 0"),
        ({"storage": "study.db"}, InputError, "must be a URL as sqlite:///study.db"),
        ({"storage": "sqlite:////nowhere/at/all/study.db"}, InputError, "there is no folder"),
    ],
)
def test_bad_input(how, error, said):
    with pytest.raises(error, match=said):
        minimize(loss_of, SPACE, **{"method": "random", "budget": 3} | how)


def test_another_method_or_a_foreign_file_is_refused_and_left_as_it_was(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(loss_of, SPACE, "random", budget=3, storage=url)
    with pytest.raises(InputError, match="has another method"):
        minimize(loss_of, SPACE, {"bohb": HALVED}, budget=3, storage=url)
    optuna.create_study(storage=url, study_name="theirs").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match="was not made by paretune"):
        minimize(loss_of, SPACE, "random", budget=3, storage=url, name="theirs")
    (tmp_path / "text.db").write_text("no database at all, but a text that is long enough to be one " * 20)
    before = (tmp_path / "text.db").read_bytes()
    with pytest.raises(InputError, match="is no SQLite database"):
        minimize(loss_of, SPACE, "random", budget=3, storage=f"sqlite:///{tmp_path}/text.db")
    assert (tmp_path / "text.db").read_bytes() == before
    assert len(minimize(loss_of, SPACE, "random", budget=3, storage=url).trials) == 3


def test_a_study_goes_on_by_its_storage_alone(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    straight = minimize(loss_of, SPACE, {"bohb": HALVED}, budget=30, seed=3)
    minimize(loss_of, SPACE, {"bohb": HALVED}, budget=10, storage=url, name="mine", seed=3)
    result = resume(loss_of, url, 30, name="mine")
    assert [(t.config, t.budget, t.loss) for t in result.trials] == [
        (t.config, t.budget, t.loss) for t in straight.trials
    ]
    with pytest.raises(InputError, match=r"no study 'mien' in .* Did you mean 'mine'"):
        resume(loss_of, url, 30, name="mien")
    with pytest.raises(InputError, match="does not exist"):
        resume(loss_of, f"sqlite:///{tmp_path}/other.db", 30)


def test_a_study_whose_objective_was_mended_goes_on(tmp_path):
    """Failures of earlier processes do not stop this one."""
    url = f"sqlite:///{tmp_path}/study.db"

    def broken(config):
        raise ValueError("not yet")

    with pytest.raises(RunError, match="5 of 5 runs failed"):
        minimize(broken, {"x": Float(0, 1)}, "random", 20, storage=url)
    result = minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 20, storage=url)
    assert len(result.trials) == 20 and sum(bool(trial.error) for trial in result.trials) == 5


def test_a_look_at_a_study_does_not_make_it_ours(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=url, study_name="theirs")
    with pytest.raises(InputError, match="was not made by paretune"):
        Store(url, "theirs", {"space": {"parameters": {}, "forbid": []}, "method": {}, "seed": 0}, resume=True)
    assert optuna.load_study(storage=url, study_name="theirs").user_attrs == {}


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE notes (a)",
        "CREATE TABLE studies (id, title)",
        "PRAGMA journal_mode=WAL; CREATE TABLE notes (a)",
        "VACUUM",
    ],
)
@pytest.mark.parametrize("look", ["resume", "prior"])
def test_a_look_at_a_file_of_something_else_leaves_it_as_it_was(made, look, tmp_path):
    """Neither WAL nor Optuna's tables come into it; beside one in WAL mode SQLite leaves its own files."""
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(made)
    before, url = path.read_bytes(), f"sqlite:///{path}"
    if look == "resume":
        with pytest.raises(InputError, match=r"no study 'study' in .*There are none"):
            resume(loss_of, url, 3)
    else:
        space = settled(Space({"x": Float(0, 1, prior="auto")}), url, "study", lambda kind, fields: None)
        assert not space.informed
    assert path.read_bytes() == before and ("WAL" in made or list(tmp_path.iterdir()) == [path])


def test_a_file_of_an_older_optuna_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "old.db"
    url = f"sqlite:///{path}"
    optuna.create_study(storage=url, study_name="study")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE trial_heartbeats; UPDATE alembic_version SET version_num='v2.6.0.a'")
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be used, and was left as it is"):
        resume(loss_of, url, 3)
    assert path.read_bytes() == before


def test_runs_say_when_they_ended():
    before = datetime.now()
    trials = minimize(loss_of, SPACE, "random", budget=3).trials
    assert before <= trials[0].finished <= trials[1].finished <= trials[2].finished <= datetime.now()


def test_runs_that_were_lost_say_when_too(objectives):
    result = minimize(objectives.crashes_always, {"x": Float(0, 1)}, "random", budget=12, workers=2)
    lost = [trial for trial in result.trials if trial.error.startswith("lost")]
    assert lost and all(trial.finished is not None for trial in lost)


def test_one_configuration_that_fails_has_no_more_repeats():
    """Not five of its runs are spent, and they do not end the study."""

    def fails(config):
        if config["x"] > 0.75:
            raise ValueError("too large")
        return config["x"]

    for seed in range(4):
        result = minimize(fails, {"x": Float(0, 1)}, "random", budget=60, repeats=5, seed=seed)
        failed = [trial for trial in result.trials if trial.error]
        assert failed and len({trial.config_number for trial in failed}) == len(failed)
        assert all(trial.repeat == 0 for trial in failed) and len(result.trials) == 60


def test_a_folder_is_one_studys_own(tmp_path):
    """Of another study, of the same one begun anew: none goes on from files that it did not write."""

    def leaves(config, budget, context):
        mark = context.checkpoint_dir / "config.txt"
        assert not mark.exists() or mark.read_text() == repr(config)
        mark.write_text(repr(config))
        return config["x"]

    space, url = {"x": Float(0, 1)}, f"sqlite:///{tmp_path}/study.db"
    how = {"method": {"hyperband": HALVED}, "folder": tmp_path / "files"}
    for seed, name in ((0, "a"), (1, "b"), (2, "a")):
        result = minimize(leaves, space, budget=20, name=name, seed=seed, **how)
        assert not any(trial.error for trial in result.trials)
    minimize(leaves, space, budget=12, name="a", storage=url, **how)
    result = minimize(leaves, space, budget=20, name="a", storage=url, **how)
    assert not any(trial.error for trial in result.trials) and len(result.trials) == 20
    assert {each.name for each in (tmp_path / "files").iterdir()} == {"a", "a-2", "a-3", "b"}


def test_seeds_draw_other_points():
    results = [minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 9, seed=seed) for seed in (0, 1)]
    first, second = ({trial.config["x"] for trial in result.trials} for result in results)
    assert not first & second


def test_what_else_a_user_may_get_wrong():
    space = {"x": Float(0, 1)}
    for how, said in (
        ({"method": {"asha": {"promote": "together"}}}, "asha: promote='together'"),
        ({"method": {"bohb": 27}}, "bohb: 27 must be settings"),
        ({"budget": "100"}, "budget='100': of what"),
        ({"budget": "1.2.3h"}, "must be a time"),
        ({"method": "optuna.BruteForceSampler"}, "BruteForceSampler of Optuna"),
    ):
        with pytest.raises(InputError, match=said):
            minimize(lambda config: config["x"], space, **{"method": "random", "budget": 4} | how)
    result = minimize(lambda config: 10**400, space, "random", 4)
    assert result.trials[0].error == "the loss is inf"
    seen = []
    minimize(lambda config, context: seen.append(context.seed) or 0.0, space, "random", 2)
    assert len(seen) == 2, "what is called context gets it"


def test_a_trial_of_somebody_else_is_named(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 3, storage=url)
    optuna.load_study(storage=url, study_name="study").enqueue_trial({"x": 0.5})
    with pytest.raises(InputError, match=r"trial 3 was not made by paretune"):
        minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 5, storage=url)
