"""A study with another space: the next version, with what lies inside; what cannot be taken over is refused."""

from __future__ import annotations

import sqlite3

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.search import Categorical, Constant, Float, Int, Ordered, Space, minimize, resume, when
from paretune.search._space.space import key
from paretune.search._study import versions
from paretune.search._study.plain import space_to_json
from paretune.search._study.versions import check_kinds, inside

SPACE = {"x": Float(0, 1), "opt": Categorical(["sgd", "adam"]), "n": Int(1, 8)}
WIDER = SPACE | {"x": Float(0.4, 2.0), "kind": Constant("mlp")}
HALVED = {"hyperband": {"min": 1, "max": 9}}


def loss_of(config, budget=1):
    if config["n"] == 5:
        raise ValueError("five")
    return {"loss": (config.get("x", 0) - 0.5) ** 2 + config["n"] / (budget or 1), "n": config["n"]}


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def dump(path, study):
    """What is stored of a study, by number of the trial."""
    with sqlite3.connect(path) as connection:
        found = {}
        for table in ("trial_user_attributes", "trial_params", "trial_values", "trial_intermediate_values"):
            found[table] = connection.execute(
                f"SELECT a.*, t.* FROM {table} a JOIN trials t USING (trial_id) JOIN studies s USING (study_id) "
                "WHERE s.study_name = ?",
                (study,),
            ).fetchall()
    connection.close()
    return found


def test_what_lies_inside_is_taken_over_and_the_old_study_stays(url, tmp_path):
    heard = []
    listen = lambda kind, fields: heard.append((kind, fields))  # noqa: E731
    old = minimize(loss_of, SPACE, HALVED, budget=30, storage=url, name="digits")
    before = dump(tmp_path / "study.db", "digits")
    fits = [trial for trial in old.trials if trial.config["x"] >= 0.4]
    assert 5 < len(fits) < 30 and any(t.error for t in fits), "the case has something to tell"
    result = minimize(loss_of, WIDER, HALVED, budget=12, storage=url, name="digits", listen=listen)
    assert dump(tmp_path / "study.db", "digits") == before
    (told,) = [fields for kind, fields in heard if kind == "space"]
    assert (told["study"], told["of"], told["taken"], told["runs"]) == ("digits@2", "digits", len(fits), 30)
    assert f"{len(fits)} of 30 runs of 'digits' lie in the new one and were taken over" in told["text"]
    taken, new = result.trials[: len(fits)], result.trials[len(fits) :]
    for was, now in zip(fits, taken, strict=True):
        assert now.config == was.config | {"kind": "mlp"} and now.origin == "earlier"
        same = ("budget", "rung", "loss", "values", "error", "seconds")
        assert all(getattr(was, name) == getattr(now, name) for name in same)
    numbers = [trial.config_number for trial in taken]
    assert set(numbers) == set(range(len(set(numbers)))) and len({key(t.config) for t in taken}) == len(
        set(numbers)
    )
    assert len(new) == 12 and [trial.budget for trial in new] == [1] * 9 + [3] * 3, "brackets begin anew"
    assert not {key(trial.config) for trial in new} & {key(trial.config) for trial in taken}
    study = optuna.load_study(study_name="digits@2", storage=url)
    assert study.best_value == min(t.loss for t in result.trials if t.budget == 9 and not t.error)
    # its plain name goes on with it
    assert len(minimize(loss_of, WIDER, HALVED, budget=15, storage=url, name="digits").trials) == len(fits) + 15
    assert len(resume(loss_of, url, 16, name="digits").trials) == len(fits) + 16
    assert sorted(optuna.get_all_study_names(url)) == ["digits", "digits@2"]


def test_a_third_version_takes_from_both(url):
    minimize(loss_of, SPACE, "random", budget=10, storage=url)
    minimize(loss_of, SPACE | {"x": Float(0, 0.5)}, "random", budget=10, storage=url)
    heard = []
    back = minimize(
        loss_of, SPACE, "random", budget=3, storage=url, listen=lambda kind, fields: heard.append((kind, fields))
    )
    assert [(f["study"], f["of"], f["taken"], f["runs"]) for k, f in heard if k == "space"] == [
        ("study@3", "study@2", 20, 20)
    ]
    assert len(back.trials) == 23 and back.best.loss == min(t.loss for t in back.trials)


def test_points_of_a_grid_that_were_tried_are_left_out(url):
    space = {"n": Int(1, 4), "opt": Categorical(["sgd", "adam"])}
    minimize(loss_of, space, "grid", budget=5, storage=url)
    space["n"] = Int(2, 6)
    result = minimize(loss_of, space, "grid", budget=4, storage=url)
    result = minimize(loss_of, space, "grid", budget=20, storage=url)
    tried = [(trial.config["n"], trial.config["opt"]) for trial in result.trials]
    assert tried[:3] == [(2, "sgd"), (2, "adam"), (3, "sgd")] and len(tried) == len(set(tried)) == 10
    assert tried[3:] == [(3, "adam"), *((n, opt) for n in (4, 5, 6) for opt in ("sgd", "adam"))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": Int(0, 1)}, "space: x is float in study 'study' and int here"),
        ({"n": Float(1, 8)}, "space: n is int in study 'study' and float here"),
        ({"opt": Ordered(["sgd", "adam"])}, "opt is categorical in study 'study' and ordered here"),
        ({"n": Int(1, 8, log=True)}, "n is linear in study 'study' and log here"),
    ],
)
def test_another_kind_is_refused(url, tmp_path, change, said):
    minimize(loss_of, SPACE, "random", budget=3, storage=url)
    before = dump(tmp_path / "study.db", "study")
    with pytest.raises(InputError, match=f"{said}.*choose another name"):
        minimize(loss_of, SPACE | change, "random", budget=3, storage=url)
    assert optuna.get_all_study_names(url) == ["study"] and dump(tmp_path / "study.db", "study") == before


def test_checkpoints_of_another_version_are_not_used(url, tmp_path):
    def marks(config, budget, context):
        assert not list(context.checkpoint_dir.iterdir())
        (context.checkpoint_dir / "mark").write_text("")
        return config["x"]

    for space in (SPACE, WIDER):
        minimize(marks, space, "random", budget=5, storage=url, folder=tmp_path / "runs")


def test_a_version_that_was_not_finished_is_made_anew(url, monkeypatch):
    minimize(loss_of, SPACE, "random", budget=8, storage=url)
    template, made = versions._template, []

    def dies(*args):
        made.append(args)
        if len(made) == 3:
            raise KeyboardInterrupt
        return template(*args)

    wider = SPACE | {"x": Float(-1, 2)}
    with monkeypatch.context() as patch:
        patch.setattr(versions, "_template", dies)
        with pytest.raises(KeyboardInterrupt):
            minimize(loss_of, wider, "random", budget=2, storage=url)
    assert len(minimize(loss_of, SPACE, "random", budget=9, storage=url).trials) == 9, "the old one goes on"
    assert len(minimize(loss_of, wider, "random", budget=2, storage=url).trials) == 11
    assert sorted(optuna.get_all_study_names(url)) == ["study", "study@2"]


def test_another_s_study_of_that_name_is_left_alone(url):
    minimize(loss_of, SPACE, "random", budget=4, storage=url)
    optuna.create_study(storage=url, study_name="study@2").add_trial(optuna.trial.create_trial(value=1.0))
    minimize(loss_of, SPACE | {"x": Float(-1, 2)}, "random", budget=2, storage=url)
    assert sorted(optuna.get_all_study_names(url)) == ["study", "study@2", "study@3"]
    assert optuna.load_study(study_name="study@2", storage=url).best_value == 1.0


def test_no_version_is_made_of_a_study_that_runs(url):
    def changes(config):
        with pytest.raises(InputError, match="study 'study' is being run by process"):
            minimize(loss_of, WIDER, "random", budget=2, storage=url)
        return 0.0

    minimize(changes, SPACE, "random", budget=1, storage=url)
    assert optuna.get_all_study_names(url) == ["study"]


NEW = Space(
    {
        "opt": Categorical(["sgd", "lion"]),
        "x": Float(0.25, 2),
        "n": Int(1, 9, step=2),
        "m": Float(0, 1, when=when("opt", "sgd")),
        "kind": Constant("mlp"),
    },
    forbid=["x > 0.9 and n == 1"],
)


def test_inside_by_hand():
    fits = {"opt": "sgd", "x": 0.5, "n": 3, "m": 0.1}
    assert inside(NEW, fits) == fits | {"kind": "mlp"} and inside(NEW, fits | {"kind": "mlp"}) is not None
    for change in ({"opt": "adam"}, {"x": 0.2}, {"n": 2}, {"opt": "lion"}, {"kind": "cnn"}, {"more": 1}):
        assert inside(NEW, fits | change) is None, change
    assert inside(NEW, {"opt": "lion", "x": 0.5, "n": 3}) == {"opt": "lion", "x": 0.5, "n": 3, "kind": "mlp"}
    assert inside(NEW, {"opt": "lion", "x": 0.95, "n": 1}) is None, "forbidden"
    check_kinds(space_to_json(Space({"n": Constant(3)})), space_to_json(NEW), "study")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    low=st.floats(-2, 1, allow_nan=False),
    width=st.floats(1e-3, 3),
    x=st.floats(-2, 4, allow_nan=False),
    n=st.integers(-3, 12),
)
def test_inside_is_what_the_range_says(low, width, x, n):
    """Values are kept as they are, bit for bit."""
    space = Space({"x": Float(low, low + width), "n": Int(0, 9)})
    config = {"x": x, "n": n}
    assert inside(space, config) == (config if low <= x <= low + width and 0 <= n <= 9 else None)


def test_a_name_that_looks_like_a_version_is_a_study_of_its_own(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", 5, storage=url, name="resnet@50")
    result = minimize(lambda config: config["x"], {"x": Float(0, 2)}, "random", 4, storage=url, name="resnet")
    assert len(result.trials) == 4
    again = minimize(lambda config: config["x"], {"x": Float(0, 3)}, "random", 4, storage=url, name="resnet")
    assert len(again.trials) > 4
    names = set(optuna.get_all_study_names(url))
    assert names == {"resnet@50", "resnet", "resnet@2"}
