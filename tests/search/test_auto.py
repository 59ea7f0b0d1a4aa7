"""`prior: auto`: what is fitted from earlier studies, by hand; stored with the study, and told."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from paretune.errors import InputError
from paretune.search import Categorical, Float, Int, LogNormal, Ordered, Space, minimize, resume
from paretune.search._study.auto import settled
from paretune.search._study.plain import space_from_json, space_to_json

FLOAT, INT, LISTED = (
    optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution,
    optuna.distributions.CategoricalDistribution,
)  # fmt: skip


def study_of(url, name, rows, distributions, direction="minimize"):
    """Store a study of (loss, parameters)."""
    study = optuna.create_study(storage=url, study_name=name, direction=direction)
    for loss, params in rows:
        chosen = {each: distributions[each] for each in params}
        study.add_trial(optuna.trial.create_trial(value=loss, params=params, distributions=chosen))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def fitted(space, url, name="new"):
    heard = []
    space = settled(Space(space), url, name, lambda kind, fields: heard.append((kind, fields)))
    return space, heard


def test_a_fit_by_hand(url):
    """Twenty runs: the best 15 % are three, those of the least losses, on the scale of the parameter."""
    distributions = {
        "lr": FLOAT(1e-6, 1, log=True),
        "x": FLOAT(0, 10),
        "n": INT(1, 100),
        "c": LISTED(["a", "b", "z"]),
    }
    good = [
        {"lr": 1e-3, "x": 3.0, "n": 20, "c": "a"},
        {"lr": 1e-5, "x": 5.0, "n": 30, "c": "a"},
        {"lr": 1e-4, "x": 7.0, "n": 40, "c": "z"},
    ]
    others = [{"lr": 0.5, "x": 9.9, "n": 99, "c": "b"}] * 17
    study_of(url, "old", enumerate([*others[:8], *good, *others[8:]], start=0), distributions)
    study_of(url, "best", [(-i, row) for i, row in enumerate([*others, *good])], distributions)
    space, heard = fitted(
        {
            "lr": Float(1e-6, 1e-1, log=True, prior="auto"),
            "x": Float(0, 10, prior="auto"),
            "n": Int(1, 1000, prior="auto"),
            "c": Categorical(["a", "b", "c"], weights="auto"),
            "left": Float(0, 1),
        },
        url,
    )
    # study "old" has losses 0 to 19 in order: its best are three of the others; "best" has the good ones
    assert [fields["runs"] for _, fields in heard] == [3, 6, 6, 5], "lr=0.5 is out of range, and c has no 'z'"
    lr = space["lr"].prior
    assert (
        isinstance(lr, LogNormal) and lr.median == pytest.approx(1e-4) and lr.spread == pytest.approx(math.log(10))
    )
    values = [9.9, 9.9, 9.9, 3.0, 5.0, 7.0]
    assert vars(space["x"].prior) == pytest.approx({"mean": np.mean(values), "std": np.std(values, ddof=1)})
    n = {"mean": np.mean([99, 99, 99, 20, 30, 40]), "std": 99.9}
    assert vars(space["n"].prior) == pytest.approx(n), "a tenth of the range"
    assert space["c"].weights == pytest.approx([3 / 8, 4 / 8, 1 / 8]), "two and three good ones, and one for each"
    assert space["left"].prior is None and {kind for kind, _ in heard} == {"prior"}
    assert (
        "lr: the prior LogNormal" in heard[0][1]["text"]
        and "3 good runs (earlier studies: 1)" in heard[0][1]["text"]
    )


def test_what_is_of_another_kind_or_too_little_is_not_learnt_from(url, tmp_path):
    rows = [(float(i), {"x": 0.5, "c": 1}) for i in range(10)]
    study_of(url, "log", rows, {"x": FLOAT(1e-3, 1, log=True), "c": LISTED([0, 1])})
    study_of(url, "short", [(0.0, {"x": 0.5})] * 9, {"x": FLOAT(0, 1)})
    study_of(url, "whole", [(0.0, {"x": 1})] * 10, {"x": INT(0, 1)})
    pair = optuna.create_study(storage=url, study_name="pair", directions=["minimize", "minimize"])
    for _ in range(10):
        pair.add_trial(
            optuna.trial.create_trial(values=[0, 0], params={"x": 0.5}, distributions={"x": FLOAT(0, 1)})
        )
    space, ((_, told), (_, other)) = fitted(
        {"x": Float(0, 1, prior="auto"), "o": Ordered([1, 2], weights="auto")}, url
    )
    assert space["x"].prior is None and not space.informed
    assert (
        told["prior"] is None
        and "x: warning: prior auto is uniform, as no earlier study in sqlite" in told["text"]
    )
    assert other["parameter"] == "o" and space["o"].weights is None
    for storage in (None, f"sqlite:///{tmp_path}/none.db"):
        space, ((_, told),) = fitted({"x": Float(0, 1, prior="auto")}, storage)
        assert space["x"].prior is None and told["runs"] == 0
    assert not (tmp_path / "none.db").exists()


def test_a_study_that_is_maximized_has_its_best_at_the_top(url):
    rows = [(float(i), {"x": i / 20}) for i in range(20)]
    study_of(url, "up", rows, {"x": FLOAT(0, 1)}, direction="maximize")
    assert fitted({"x": Float(0, 1, prior="auto")}, url)[0]["x"].prior.mean == pytest.approx(0.9)


def loss_of(config):
    return abs(config["x"] - 0.7)


def test_it_is_fitted_once_and_stored_with_the_study(url):
    minimize(loss_of, {"x": Float(0, 1)}, "random", budget=40, storage=url, name="first")
    auto, heard = {"x": Float(0, 1, prior="auto")}, []
    listen = lambda kind, fields: heard.append(kind)  # noqa: E731
    begun = minimize(loss_of, auto, "random", budget=10, storage=url, name="second", listen=listen)
    assert heard.count("prior") == 1
    stored = space_from_json(optuna.load_study(study_name="second", storage=url).user_attrs["space"])
    assert stored["x"].prior.mean == pytest.approx(0.7, abs=0.05) and stored["x"].prior.std == 0.1
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "random", budget=40, storage=url, name="third")
    result = minimize(loss_of, auto, "random", budget=20, storage=url, name="second", listen=listen)
    assert heard.count("prior") == 1, "a third study changes nothing"
    assert [t.config for t in result.trials[:10]] == [t.config for t in begun.trials]
    assert len(resume(loss_of, url, 25, name="second").trials) == 25
    assert all(trial.config["x"] > 0.3 for trial in result.trials), "four standard deviations below"


def test_auto_is_written_and_read():
    space = space_from_json(
        {"x": {"float": [0, 1], "prior": "auto"}, "c": {"categorical": [1, 2], "weights": "auto"}}
    )
    assert (space["x"].prior, space["c"].weights) == ("auto", "auto") and not space.informed
    assert space_to_json(space_from_json(space_to_json(space))) == space_to_json(space)
    rows = np.array([[0.3, 0.2], [0.9, 0.7]])
    assert space.density(rows).tolist() == [1.0, 1.0] and space.rows(rows.copy()).tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(0, 1, prior="atuo"), "Float: prior: 'atuo' is none. Did you mean 'auto'"),
        (lambda: Categorical([1, 2], weights="atuo"), "weights='atuo' must be a list of numbers, or auto"),
        (lambda: settled(Space({"x": Float(0, 1, prior="auto")}), "here.db", "new", print), "must be a URL"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(InputError, match=said):
        make()
