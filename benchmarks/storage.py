"""What it costs to store a run: beginning and ending one here, against Optuna's own way, on SQLite.

Ten numbers and a study's attributes. Ours is `Store.begin` and `Store.end`. Optuna is asked for the same
parameters (`ask`, random sampler), given the same attributes (`set_user_attr`), and told; once with the
storage as it makes it, once with the same in WAL mode. Beside it what Optuna takes to store a run that is
over already (`add_trial`), of which nobody knew that it had begun. In turns, medians. Then a study of 10,000
runs, written by SQL, is opened, resumed and asked for one run more; beside it, what Optuna takes to read it.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from _common import Result, run, say
from paretune.search import Float, Space, resume
from paretune.search._optuna import distribution_of
from paretune.search._study.definition import plan_to_json
from paretune.search._study.method import method_of
from paretune.search._study.objective import Outcome
from paretune.search._study.storage import ATTRIBUTES, Store
from paretune.search._study.trial import Trial
from paretune.search.samplers import Bohb

TURNS, GOAL, LONG, SECONDS = 100, 0.6, 10_000, 3.0
SPACE = Space({f"x{i}": Float(0, 1) for i in range(10)})
DISTRIBUTIONS = {name: distribution_of(SPACE[name]) for name in SPACE.names}


def trial(number: int, config: dict[str, Any], **how: Any) -> Trial:
    """Return a run that begins."""
    own: dict[str, Any] = {"budget": 81, "rung": 4, "bracket": 0, "origin": "model", "attempt": 1} | how
    return Trial(
        number=-1, config_number=number, config=config, seen=number, loss=None, seconds=0.0, values={}, error="",
        finished=None, **own,
    )  # fmt: skip


def ours(store: Store, number: int, config: dict[str, Any]) -> float:
    """Store a run and how it ended; return the seconds."""
    began = time.perf_counter()
    stored = store.begin(trial(number, config), SPACE)
    store.end(stored, Outcome(0.5, 1.0, {"size": 3.0}), 4, full=True)
    return time.perf_counter() - began


def theirs(study: optuna.Study, number: int, config: dict[str, Any]) -> float:
    """Store the same by Optuna's public calls; return the seconds."""
    like = trial(number, config)
    began = time.perf_counter()
    asked = study.ask(DISTRIBUTIONS)
    for name in ATTRIBUTES:
        asked.set_user_attr(name, getattr(like, name))
    asked.set_user_attr("outcome", {"seconds": 1.0, "values": {"size": 3.0}, "error": ""})
    study.tell(asked, 0.5)
    return time.perf_counter() - began


def added(study: optuna.Study, number: int, config: dict[str, Any]) -> float:
    """Store a run when it is over, in one call; return the seconds."""
    like = trial(number, config)
    attributes = {name: getattr(like, name) for name in ATTRIBUTES}
    attributes["outcome"] = {"seconds": 1.0, "values": {"size": 3.0}, "error": ""}
    began = time.perf_counter()
    study.add_trial(
        optuna.trial.create_trial(value=0.5, params=config, distributions=DISTRIBUTIONS, user_attrs=attributes)
    )
    return time.perf_counter() - began


def study_in(url: str) -> optuna.Study:
    """Return a new study of Optuna's."""
    return optuna.create_study(storage=url, sampler=optuna.samplers.RandomSampler(seed=0))


def written(folder: Path, turns: int) -> dict[str, float]:
    """Return milliseconds for each way to store a run."""
    store = Store(f"sqlite:///{folder}/ours.db", "study", plan_to_json(SPACE, method_of("bohb"), 0), resume=False)
    default = study_in(f"sqlite:///{folder}/default.db")
    with closing(sqlite3.connect(folder / "wal.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    wal = study_in(f"sqlite:///{folder}/wal.db")
    over = study_in(f"sqlite:///{folder}/over.db")
    generator = np.random.default_rng(0)
    taken: dict[str, list[float]] = {"ours": [], "optuna": [], "optuna, WAL": [], "optuna, add_trial": []}
    for turn in range(turns):
        config = SPACE.config(generator.random(len(SPACE)))
        taken["ours"].append(ours(store, turn, config))
        taken["optuna"].append(theirs(default, turn, config))
        taken["optuna, WAL"].append(theirs(wal, turn, config))
        taken["optuna, add_trial"].append(added(over, turn, config))
    return {name: round(1e3 * statistics.median(times), 2) for name, times in taken.items()}


def fill(path: Path, count: int) -> None:
    """Write a study of so many finished runs, as BOHB's schedule would have them, by SQL."""
    sampler = Bohb()
    store = Store(f"sqlite:///{path}", "study", plan_to_json(SPACE, sampler, 0), resume=False)
    del store
    schedule, generator, configs = sampler.schedule(1), np.random.default_rng(0), []
    when = "2026-01-01 00:00:00.000000"
    trials, attributes, params, values = [], [], [], []
    text = json.dumps(
        {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.0, "high": 1.0, "log": False}}
    )
    for number in range(count):
        job = schedule.next()
        if job.config is None:
            configs.append(SPACE.config(generator.random(len(SPACE))))
        at = len(configs) - 1 if job.config is None else job.config
        loss = float(generator.random())
        schedule.tell(job, at, loss)
        own = trial(at, configs[at], budget=sampler.budgets[job.rung], rung=job.rung, bracket=job.bracket)
        full = job.rung == len(sampler.budgets) - 1
        trials.append((number + 1, number, 1, "COMPLETE" if full else "PRUNED", when, when))
        stored = {name: getattr(own, name) for name in ATTRIBUTES}
        stored["outcome"] = {"seconds": 1.0, "values": {}, "error": ""}
        attributes += [(number + 1, name, json.dumps(value)) for name, value in stored.items()]
        params += [(number + 1, name, value, text) for name, value in configs[at].items()]
        values.append((number + 1, 0, loss, "FINITE"))
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, columns, rows in (
            ("trials", "trial_id, number, study_id, state, datetime_start, datetime_complete", trials),
            ("trial_user_attributes", "trial_id, key, value_json", attributes),
            ("trial_params", "trial_id, param_name, param_value, distribution_json", params),
            ("trial_values", "trial_id, objective, value, value_type", values),
        ):
            marks = ", ".join("?" * len(columns.split(",")))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def resumed(path: Path, count: int) -> dict[str, float]:
    """Return the seconds of going on with a study by one run, and those that Optuna takes to read it.

    The least of three times, since other processes may use the machine; `cpu` is of this process alone.
    """
    fill(path, count)
    taken = []
    for more in (1, 2, 3):
        began, used = time.perf_counter(), time.process_time()
        result = resume(lambda config, budget: 0.5, f"sqlite:///{path}", count + more)
        taken.append((time.perf_counter() - began, time.process_time() - used))
        assert len(result.trials) == count + more and not any(each.error for each in result.trials)
    began = time.perf_counter()
    assert len(optuna.load_study(study_name="study", storage=f"sqlite:///{path}").trials) == count + 3
    took, used = min(taken)
    return {"ours": round(took, 2), "cpu": round(used, 2), "optuna": round(time.perf_counter() - began, 2)}


def measure(quick: bool) -> Result:
    """Time both."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rows = written(Path(folder), 10 if quick else TURNS)
        say(f"storing a run: {rows} ms")
        seconds = resumed(Path(folder) / "long.db", 300 if quick else LONG)
        say(f"resuming: {seconds} s")
    ratio = rows["ours"] / rows["optuna"]
    return Result(
        value=round(ratio, 3),
        unit="time to store a finished run as a part of Optuna's",
        goal=f"at most {GOAL}x Optuna's default; {LONG:,} runs opened and resumed in under {SECONDS:.0f} s",
        met=not quick and ratio <= GOAL and seconds["ours"] < SECONDS,
        peer={"name": f"Optuna {optuna.__version__}, RDBStorage on SQLite", "value": 1.0},
        detail={"ms": rows, "to_wal": round(rows["ours"] / rows["optuna, WAL"], 3), "resume_seconds": seconds},
    )


if __name__ == "__main__":
    run("storage", measure)
