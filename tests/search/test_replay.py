"""Replay: every suggestion comes out again, whatever happened meanwhile; what was changed is found. And events."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from contextlib import closing

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.errors import InputError, RunError
from paretune.methods import registry
from paretune.search import Beta, Categorical, Float, Int, Limits, Space, minimize, replay, resume, when
from paretune.search._study.definition import plan_to_json
from paretune.search._study.events import Events
from paretune.search._study.executors import Executor, Lost
from paretune.search._study.objective import Outcome
from paretune.search._study.opening import plan_of
from paretune.search._study.replay import in_order, replayed
from paretune.search._study.storage import Store
from paretune.search._study.study import Search
from paretune.search.samplers import Bohb
from paretune.search.samplers._base import Suggestion

SPACE = Space(
    {
        "x": Float(0, 1),
        "opt": Categorical(["a", "b"]),
        "depth": Int(1, 3, when=when("opt", "a")),
    },
    forbid=["depth == 3 and x > 0.9"],
)
HALVED = {"min": 1, "max": 9}
METHODS = {"grid": {"points": 8}, "bohb": HALVED | {"early": 4}, "hyperband": HALVED, "asha": HALVED}


def bowl(config, budget=None):
    if config["x"] > 0.9:
        raise ValueError("too far")
    return (config["x"] - 0.3) ** 2 + 0.1 * config.get("depth", 0) + 1 / (budget or 1)


def stored(url):
    plan = plan_of(url, "study")
    return Store(url, "study", plan, resume=True).read()


@pytest.mark.parametrize("name", registry("samplers"))
def test_every_suggestion_comes_out_again_after_failures_and_a_kill(name, tmp_path):
    url, method = f"sqlite:///{tmp_path}/study.db", {name: METHODS.get(name, {})}
    calls = []

    def killed(config, budget):
        calls.append(config)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return bowl(config, budget)

    with pytest.raises(KeyboardInterrupt):
        minimize(killed, SPACE, method, budget=40, storage=url, seed=5)
    assert replay(url).same
    result = resume(bowl, url, 40)
    found = replay(url)
    assert found.same, found.differences
    assert found.suggestions == 1 + max(trial.config_number for trial in result.trials) >= 18
    assert any(trial.error for trial in result.trials)


class Nosy(Bohb):
    """Suggests what depends on all that a sampler is given: results in their order, and what is under way."""

    def suggest(self, space, results, generator, number):
        told = [*results.losses[-3:], *results.rungs[-3:], *results.pending.ravel(), number, generator.random()]
        # to 0.55: what ends at 0.5 and below, as `crashes_once` does, is among them whatever the order of runs
        wave = abs(math.sin(sum(v * (i + 1) for i, v in enumerate(told) if math.isfinite(v))))
        x = float(f"{0.55 * wave:.9g}")
        return Suggestion(space.row({"x": x}), {"x": x}, "model")


@pytest.mark.parametrize(("case", "budget"), [("slow", 20), ("crashes_once", 8)])
def test_three_workers_are_replayed_with_what_was_under_way_and_what_was_lost(objectives, tmp_path, case, budget):
    url, space = f"sqlite:///{tmp_path}/study.db", Space({"x": Float(0, 1)})
    sampler = Nosy(min=1, max=9)
    minimize(getattr(objectives, case), space, sampler, budget=budget, storage=url, workers=3, folder=tmp_path)
    found = replay(url, method=sampler)
    assert found.same, found.differences[0]
    trials = stored(url)
    assert len({trial.seen for trial in trials}) > 3, "suggestions saw more and more"
    assert case == "slow" or any(trial.error.startswith("lost") for trial in trials)
    ended = in_order(trials)
    assert [t.finished for t in ended] == sorted(t.finished for t in ended) and len(ended) == budget


class Chance(Executor):
    """Ends runs in a random order: well, badly, lost with their worker, or all of them with the driver."""

    def __init__(self, slots, chance, kills):
        self.slots, self.chance, self.kills, self.jobs = slots, chance, kills, []

    def start(self, job):
        self.jobs.append(job)

    def wait(self):
        if self.kills and self.chance.random() < 0.1:
            raise KeyboardInterrupt
        self.chance.shuffle(self.jobs)
        count = self.chance.randint(1, len(self.jobs))
        ended, self.jobs = self.jobs[:count], self.jobs[count:]
        return [(job.number, self._outcome()) for job in ended]

    def _outcome(self):
        kind = self.chance.random()
        if kind < 0.1:
            return Lost("its worker died", 1.0)
        return Outcome(math.inf, 1.0, error="no") if kind < 0.2 else Outcome(self.chance.random(), 1.0)

    def stop(self):
        self.jobs = []


@given(st.integers(0, 2**32), st.integers(1, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_whatever_the_order_of_ends_losses_and_kills_it_is_replayed(seed, slots, kills):
    chance, space, sampler = random.Random(seed), Space({"x": Float(0, 1)}), Nosy(min=1, max=9)
    store = Store(None, "study", plan_to_json(space, sampler, 3), resume=False)
    while True:
        executor = Chance(slots, chance, kills)
        study = Search(executor, space, sampler, Limits(trials=40), store, 3, None, Events())
        try:
            if study.run().ended != "interrupted":  # once: what was under way has ended
                break
        except KeyboardInterrupt:
            pass  # twice: it was stopped
        except RunError:
            return  # more than half failed
    last = {(trial.config_number, trial.rung): trial for trial in store.read()}
    assert all(trial.attempt == 3 or not trial.error.startswith("lost") for trial in last.values()), "begun again"
    found = replayed(store.read(), plan_to_json(space, sampler, 3), sampler)
    assert found.same, found.differences[0]


def changed(path, what, number, key=None):
    """Return the URL of a copy in which an attribute of a run is another one, or its loss."""
    copy = path.with_name(f"{key or 'loss'}-{number}.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as connection:
        source.backup(connection)
        ((identity,),) = connection.execute("SELECT trial_id FROM trials WHERE number = ?", (number,)).fetchall()
        if key is None:
            connection.execute("UPDATE trial_values SET value = ? WHERE trial_id = ?", (what, identity))
        else:
            sql = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = ?"
            connection.execute(sql, (json.dumps(what), identity, key))
        connection.commit()
    return f"sqlite:///{copy}"


def test_what_was_changed_is_found(tmp_path):
    path = tmp_path / "study.db"
    url = f"sqlite:///{path}"
    result = minimize(bowl, SPACE, {"bohb": HALVED | {"early": 4, "random": 0.0}}, budget=60, storage=url)
    assert replay(url).same
    worst = max((t for t in result.trials[:6] if not t.error), key=lambda t: t.loss)
    found = replay(changed(path, -5.0, worst.number))  # it would have been the best of all
    assert found.differences and all(each.number > worst.config_number for each in found.differences)
    assert found.differences[0].why == "another configuration"
    last = next(t for t in result.trials if t.config_number == max(t.config_number for t in result.trials))
    (only,) = replay(changed(path, {"x": 0.123, "opt": "b"}, last.number, "config")).differences
    assert (only.number, only.run, only.stored) == (last.config_number, last.number, {"x": 0.123, "opt": "b"})
    assert only.replayed == last.config
    (only,) = replay(changed(path, 1000, last.number, "seen")).differences
    assert only.replayed is None and "it had seen 1000 results, of which" in only.why
    promoted = next(t for t in result.trials if t.rung == 1 and t.origin == "promoted")
    found = replay(changed(path, {"x": 0.5, "opt": "b"}, promoted.number, "config"))
    assert any("goes on with another configuration" in each.why for each in found.differences)
    outside = replay(changed(path, {"x": 3.0, "opt": "b"}, 0, "config"))
    assert outside.differences[0].stored == {"x": 3.0, "opt": "b"}, "no value of the space, and told all the same"


def test_a_run_that_is_not_there_any_more_is_found(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(bowl, SPACE, "random", budget=10, storage=url)
    trials = [trial for trial in stored(url) if trial.config_number != 4]
    first = replayed(trials, plan_of(url, "study"), Bohb()).differences
    assert any("4 configurations before it are stored, and it was number 5" in each.why for each in first)


def test_fronts_repeats_and_taken_runs_are_replayed(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"

    def both(config, budget):
        return {"loss": config["x"], "size": 1 - config["x"] + 0.1 * (config["opt"] == "a")}

    how = {"objectives": ("loss", "size"), "constraints": {"size": "<= 0.9"}, "repeats": 2, "storage": url}
    minimize(both, SPACE, {"bohb": HALVED | {"early": 4}}, budget=40, **how)
    found = replay(url)
    assert found.same and found.suggestions > 15
    wider = Space(dict(SPACE.parameters) | {"x": Float(0, 2)}, forbid=SPACE.forbid)
    result = minimize(both, wider, {"bohb": HALVED | {"early": 4}}, budget=20, **how)
    assert any(trial.origin == "earlier" for trial in result.trials)
    again = replay(url)
    new = {trial.config_number for trial in result.trials if trial.origin not in ("earlier", "promoted")}
    assert again.same and again.suggestions == len(new)


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        replay(f"sqlite:///{tmp_path}/study.db")


def test_events_say_what_happened_and_when():
    heard = []
    result = minimize(
        lambda config, budget, context: context.report(1, 0.5) or bowl(config, budget),
        SPACE,
        {"hyperband": HALVED},
        budget=13,
        listen=lambda kind, fields: heard.append((kind, fields)),
    )
    assert [(event.kind, event.fields) for event in result.events] == heard
    kinds = [event.kind for event in result.events if event.kind != "plan"]
    assert kinds == ["begin"] + ["start", "report", "run"] * 13
    seconds = [event.seconds for event in result.events]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    begin = result.events[0].fields
    assert begin["limits"]["trials"] == 13 and begin["budgets"] == [1, 3, 9] and begin["workers"] == 1
    assert begin["spent"] == {"trials": 0, "runs": 0.0, "work": 0.0}
    ended = [event.fields for event in result.events if event.kind == "run"]
    assert [fields["loss"] for fields in ended] == [None if t.error else t.loss for t in result.trials]
    begun = [event.fields["state"] for event in result.events if event.kind == "start"]
    assert begun == ["running"] * 13


def test_a_study_that_goes_on_says_what_was_spent(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(lambda config: 1.0, SPACE, "random", budget=5, storage=url)
    result = resume(lambda config: 1.0, url, 8)
    assert result.events[0].fields["spent"]["trials"] == 5
    assert [event.kind for event in result.events] == ["begin", *["start", "run"] * 3]


def test_a_result_is_told_in_a_line():
    result = minimize(lambda config: config["x"] + 1, {"x": Int(0, 2)}, "grid", budget=9)
    assert repr(result) == (
        "Result(best: 1 by {'x': 0}; 3 runs, 0 failed; ended by all 3 points of the grid were tried)"
    )


def test_each_kind_of_failure_has_its_traceback_once():
    def fails(config):
        if config["x"] < 0.2:
            raise ValueError(f"too small: {config['x']}")
        if config["x"] < 0.4:
            return None
        return config["x"]

    result = minimize(fails, {"x": Float(0, 1)}, "random", budget=24)
    failed = [event.fields for event in result.events if event.kind == "run" and event.fields["error"]]
    told = [fields["traceback"] for fields in failed if "traceback" in fields]
    assert len(failed) > 3 and len(told) == 2
    assert any("raise ValueError" in text for text in told) and any("returned nothing" in text for text in told)


@pytest.mark.parametrize("seed", range(3))
def test_repeats_are_replayed(seed, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    minimize(lambda config: config["x"], {"x": Float(0, 1)}, "bayes", 45, storage=url, repeats=3, seed=seed)
    assert replay(url).same


def test_another_order_of_parameters_is_the_same_study(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    space = {"x": Float(0, 1), "y": Float(0, 1), "z": Int(1, 9)}
    loss = lambda config: config["x"] + config["y"] ** 2  # noqa: E731
    minimize(loss, space, {"bohb": {"min": 1, "max": 9}}, 20, storage=url)
    minimize(loss, dict(reversed(space.items())), {"bohb": {"min": 1, "max": 9}}, 40, storage=url)
    assert replay(url).same


def test_a_prior_over_a_range_of_its_own_is_kept(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    space = {"x": Float(0, 1, prior=Beta(2, 2, 0.2, 0.4))}
    minimize(lambda config: config["x"], space, "random", 10, storage=url)
    assert replay(url).same
    with pytest.raises(InputError, match="has another"):
        minimize(lambda config: config["x"], space, {"random": {"quasi": True}}, 20, storage=url)
    other = {"x": Float(0, 1, prior=Beta(2, 2, 0.6, 0.8))}
    minimize(lambda config: config["x"], other, "random", 12, storage=url)
    assert "study@2" in optuna.get_all_study_names(url), "it is another space"
    with pytest.raises(InputError, match=r"low=0.4 must be below high=0.4"):
        Beta(2, 2, 0.4, 0.4)


def test_rules_that_are_functions_are_given_again(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    space = Space({"x": Float(0, 1), "y": Float(0, 1)}, forbid=[lambda x, y: x > y])
    loss = lambda config: config["x"]  # noqa: E731
    minimize(loss, space, "random", 5, storage=url)
    with pytest.raises(InputError, match=r"rule <lambda>\(x, y\), a function, which is not stored.*space="):
        resume(loss, url, 9)
    assert len(resume(loss, url, 9, space=space).trials) == 9
    for seed in (1, -1, "a", None, 1.5):
        with pytest.raises(InputError, match="seed"):
            resume(loss, url, 12, space=space, seed=seed)
