"""Samplers of Optuna: any of them by name or object, resumption, and what Optuna is told of."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from paretune.errors import InputError, RecipeError
from paretune.search import Categorical, Constant, Float, Int, Ordered, Space, minimize, resume, when
from paretune.search._optuna import Seen
from paretune.search._ranking import Point
from paretune.search._results import Growing
from paretune.search.samplers import Bayes
from paretune.search.samplers import _optuna as samplers

SPACE = Space(
    {
        "opt": Categorical(["sgd", "adam"]),
        "lr": Float(1e-5, 1e-1, log=True),
        "momentum": Float(0, 1, when=when("opt", "sgd")),
        "layers": Int(1, 8),
        "kind": Constant("mlp"),
    },
    forbid=["layers == 8 and lr > 1e-2"],
)
NAMES = ("NSGAIISampler", "QMCSampler", "RandomSampler", "TPESampler", "NSGAIIISampler", "GPSampler")


def loss_of(config):
    return abs(math.log10(config["lr"]) + 3) + 0.1 * config["layers"] + (config["opt"] == "adam")


def told(result):
    return [(trial.config, trial.loss) for trial in result.trials]


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_goes_on_after_a_stop_as_if_there_had_been_none(name, tmp_path):
    """QMC and random draws have nothing but a counter or a stream of numbers, which must be where it was."""
    count = 12 if name == "GPSampler" else 30
    how = {"method": f"optuna.{name}", "storage": f"sqlite:///{tmp_path}/study.db", "seed": 3}
    straight = minimize(loss_of, SPACE, f"optuna.{name}", budget=count, seed=3)
    assert all(SPACE.allowed(trial.config) for trial in straight.trials)
    assert len({str(trial.config) for trial in straight.trials}) == count
    minimize(loss_of, SPACE, budget=9, **how)
    assert told(minimize(loss_of, SPACE, budget=count, **how)) == told(straight)
    other = minimize(loss_of, SPACE, f"optuna.{name}", budget=count, seed=4)
    assert name == "QMCSampler" or told(other) != told(straight)


def test_a_sampler_is_told_what_it_asked_for():
    """Optuna's own loop with the same sampler and seed makes the same runs."""
    space, settings = Space({"x": Float(0, 1), "y": Float(1e-3, 1, log=True)}), {"seed": 5, "n_startup_trials": 4}
    loss = lambda config: (config["x"] - 0.3) ** 2 + config["y"]  # noqa: E731
    ours = minimize(loss, space, {"optuna": {"sampler": "TPESampler", "settings": settings}}, budget=25)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(**settings))
    study.optimize(
        lambda t: loss({"x": t.suggest_float("x", 0, 1), "y": t.suggest_float("y", 1e-3, 1, log=True)}),
        n_trials=25,
    )
    for mine, theirs in zip(ours.trials, study.trials, strict=True):
        assert mine.config == pytest.approx(theirs.params, rel=1e-10)


def test_an_object_is_taken_as_it_is_and_left_so(tmp_path):
    sampler = optuna.samplers.TPESampler(seed=7, n_startup_trials=3)
    url = f"sqlite:///{tmp_path}/study.db"
    first = minimize(loss_of, SPACE, sampler, budget=15, storage=url)
    again = minimize(loss_of, SPACE, sampler, budget=15)
    assert told(first) == told(again)
    with pytest.raises(InputError, match=r"begun with a sampler object.*optuna.samplers.TPESampler\(...\)"):
        resume(loss_of, url, 20)
    longer = minimize(loss_of, SPACE, sampler, budget=20, storage=url)
    assert told(longer)[:15] == told(first) and len(longer.trials) == 20
    with pytest.raises(InputError, match="has another method"):
        minimize(loss_of, SPACE, optuna.samplers.RandomSampler(seed=1), budget=20, storage=url)


def test_without_a_seed_an_object_goes_on_from_its_results(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    first = minimize(loss_of, SPACE, optuna.samplers.TPESampler(), budget=12, storage=url)
    result = minimize(loss_of, SPACE, optuna.samplers.TPESampler(), budget=40, storage=url)
    assert told(result)[:12] == told(first) and len({str(trial.config) for trial in result.trials}) == 40
    assert result.best.loss < 1.0, "the model knows the earlier runs"


@pytest.mark.parametrize("sampler", ["BruteForceSampler", "GridSampler", "RandomSampler"])
def test_a_finite_space_is_run_whole_and_no_more(sampler):
    space = Space({"a": Int(0, 2), "b": Categorical(["x", "y"])})
    settings = {"search_space": {"a": [0, 1, 2], "b": ["x", "y"]}} if sampler == "GridSampler" else {}
    how = {"optuna": {"sampler": sampler, "settings": settings}}
    result = minimize(lambda config: config["a"], space, how, budget=50)
    assert len(result.trials) == 6 and result.ended == "all 6 configurations were tried"


def results_of(count, pending=0):
    generator, growing = np.random.default_rng(0), Growing(len(SPACE))
    rows = [row for _, (row, _) in zip(
        range(count + pending), SPACE.draws(lambda n: generator.random((n, len(SPACE)))), strict=False
    )]  # fmt: skip
    for index, row in enumerate(rows[:count]):
        growing.add(row, math.inf if index == 4 else loss_of(SPACE.config(row)), 0)
    return growing.results(np.array(rows[count:]).reshape(-1, len(SPACE)))


def test_what_a_study_has_seen():
    results = results_of(9)
    seen, states = Seen(SPACE, None, results), optuna.trial.TrialState
    for row, score in seen.new(results):
        seen.add(row, score)
    trials = seen.study.trials
    assert [trial.state for trial in trials] == [states.COMPLETE] * 4 + [states.FAIL] + [states.COMPLETE] * 4
    assert trials[0].value == results.losses[0]
    expected = SPACE.config(results.rows[0])
    assert trials[0].params == {name: value for name, value in expected.items() if name != "kind"}
    assert list(seen.new(results)) == [] and len(list(seen.new(results_of(12)))) == 3
    seen = Seen(SPACE, None, results)
    assert len(list(seen.new(results_of(9)))) == 9
    assert seen.precedes(SPACE, results_of(9)) and seen.precedes(SPACE, results_of(12))
    assert not seen.precedes(SPACE, results_of(8)) and not seen.precedes(
        Space(dict(SPACE.parameters)), results_of(9)
    )
    other = results_of(12)
    other.losses[0] += 1.0
    assert not seen.precedes(SPACE, other)


GOALS = {"objectives": {"loss": "min", "gain": "max"}, "constraints": {"layers": "<= 6", "gain": ">= -3"}}


def traded(config):
    return {"loss": loss_of(config), "gain": -config["layers"], "layers": config["layers"]}


@pytest.mark.parametrize("method", ["optuna.NSGAIISampler", "optuna.TPESampler", "bayes"])
def test_optuna_is_told_of_all_objectives_and_constraints(method, monkeypatch):
    """Not of ranks, which change with every run: its own samplers do more with the values."""
    kept = []
    begin = Seen.__init__
    monkeypatch.setattr(
        Seen, "__init__", lambda self, *args, **how: (begin(self, *args, **how), kept.append(self))[0]
    )
    result = minimize(traded, SPACE, method, budget=25, seed=2, **GOALS)
    (seen,) = kept
    trials = seen.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert len(seen.study.directions) == 2 and len(trials) == 24, "the last run is told before the next suggestion"
    for trial, mine in zip(trials, result.trials[:24], strict=True):
        layers = mine.config["layers"]
        assert trial.values == [mine.loss, layers] and trial.params["layers"] == layers
        excess = max(0, layers - 6) / 6 + max(0, layers - 3) / 3
        assert trial.constraints == {"excess": pytest.approx(excess)}


def test_a_sampler_of_one_objective_is_told_ranks(monkeypatch):
    """CMA-ES raises at a study of several; its package need not be here for that."""

    def one(self, study, *others):
        self._raise_error_if_multi_objective(study)
        return {}

    monkeypatch.setattr(optuna.samplers.RandomSampler, "sample_relative", one)
    with pytest.raises(InputError, match=r"RandomSampler of Optuna: .*multi-objective"):
        minimize(traded, SPACE, "optuna.RandomSampler", budget=9, **GOALS)
    monkeypatch.setattr(samplers, "RANKED", ("RandomSampler",))
    assert len(minimize(traded, SPACE, "optuna.RandomSampler", budget=9, **GOALS).trials) == 9


def test_ranks_that_change_are_told_anew():
    growing = Growing(len(SPACE), 2)
    for index, row in enumerate(results_of(4).rows):
        growing.add(row, Point((float(-index), 1.0)), 0)
        results = growing.results()
        if index == 2:
            seen = Seen(SPACE, None, results, ranks=True)
            assert [score.tolist() for _, score in seen.new(results)] == [[2.0], [1.0], [0.0]]
            assert seen.precedes(SPACE, results) and len(seen.study.directions) == 1
    assert not seen.precedes(SPACE, results)


def test_ordered_values_are_places_where_the_sampler_names_none():
    space = Space({"size": Ordered([8, 64, 16]), "x": Float(0, 1)})
    results = Growing(2).results()
    numbers, named = (
        Seen(space, sampler, results)
        for sampler in (None, optuna.samplers.GridSampler({"size": [8, 16], "x": [0.5]}))
    )
    for seen, stored in ((numbers, 2), (named, 16)):
        seen.add(space.row({"size": 16, "x": 0.5}), np.array([0.1]))
        assert seen.study.trials[0].params == {"size": stored, "x": 0.5}
        trial, config = seen.ask({"size": 16, "x": 0.25})
        assert config == {"size": 16, "x": 0.25} and trial.params["size"] == stored
    how = {"optuna": {"sampler": "GridSampler", "settings": {"search_space": {"size": [8, 16], "x": [0.5]}}}}
    assert {t.config["size"] for t in minimize(lambda c: c["x"], space, how, budget=2).trials} == {8, 16}


@pytest.mark.parametrize("model", ["tpe", "gp"])
def test_a_suggestion_does_not_depend_on_what_was_asked_before(model):
    """One sampler that saw the study grow, one that sees it at once, and one that saw another study."""
    kept, other = Bayes(model=model), Bayes(model=model)
    other.suggest(SPACE, results_of(11), np.random.default_rng(9), 11)
    for count in (10, 12):
        results, fresh = results_of(count, pending=2), Bayes(model=model)
        made = [
            each.suggest(SPACE, results, np.random.default_rng(1), count).config for each in (kept, other, fresh)
        ]
        assert made[0] == made[1] == made[2]


def test_runs_under_way_are_known_to_the_model_and_forgotten_again():
    sampler = Bayes(startup=1)
    alone = sampler.suggest(SPACE, results_of(12), np.random.default_rng(0), 12)
    busy = sampler.suggest(SPACE, results_of(12, pending=6), np.random.default_rng(0), 12)
    again = sampler.suggest(SPACE, results_of(12), np.random.default_rng(0), 12)
    assert alone.config == again.config != busy.config


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        ("optuna.CmaSampler", RecipeError, "sampler='CmaSampler' must be one of .* Did you mean 'CmaEsSampler'"),
        ("optuna.BaseSampler", RecipeError, "must be one of"),
        ({"optuna": {"sampler": "QMCSampler", "settings": {"scrambel": True}}}, InputError, "mean 'scramble'"),
        ({"optuna": {"sampler": "GridSampler"}}, InputError, "GridSampler: .*search_space"),
        ({"optuna": {"sampler": "QMCSampler", "settings": {"qmc_type": "sobl"}}}, InputError, "QMCSampler: "),
        ({"optuna": {"sampler": 3}}, RecipeError, "sampler=3"),
        ("Optuna.TPESampler", InputError, "no method 'Optuna.TPESampler'"),
    ],
)
def test_bad_samplers(method, error, said):
    with pytest.raises(error, match=said):
        minimize(loss_of, SPACE, method, budget=3)


def test_a_package_that_is_missing_is_named(monkeypatch):
    """Whatever is installed here: a sampler that cannot import what it needs when it is asked."""

    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'cmaes'", name="cmaes")

    monkeypatch.setattr(optuna.samplers.RandomSampler, "sample_independent", missing)
    with pytest.raises(InputError, match=r"RandomSampler of Optuna needs cmaes.*pip install cmaes"):
        minimize(loss_of, SPACE, "optuna.RandomSampler", budget=3)
