"""Kills at random moments: 100 times `kill -9` of a study's driver, or of one of its workers, and what was lost.

Four seeds of three kinds of study, budgets 1, 3 and 9, four numbers, runs of 20 ms: BOHB with the runs in the
driver's own process, which is killed 13 times; Hyperband and BOHB with two local workers, where the driver or
a worker is, six times. Kills are spread over the study, each at a random moment of up to 0.2 s after its
share of the runs is stored; then the study is begun again by the same call. Read after each kill, from the
file itself: what is finished must be there in the end, unchanged (a run that was under way in three kills is
given up, and told); no configuration may have finished twice on a budget; the runs must be as many as asked
for.

Undisturbed studies have the same seeds. BOHB with one worker does the same bit for bit. Hyperband, full rungs
and draws that depend on their number alone, comes to the same with two workers, whatever ends first. BOHB
with two workers suggests by what has ended, which is chance: its regret is told, and not held to the goal.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _common import Result, run, say
from paretune.search import Float, minimize

SEEDS, TRIALS, GOAL = 4, 80, 1.05
SPACE = {f"x{i}": Float(0, 1) for i in range(4)}
BOHB, HYPERBAND = {"bohb": {"min": 1, "max": 9}}, {"hyperband": {"min": 1, "max": 9, "promote": "together"}}
KINDS: tuple[tuple[str, Any, int, int], ...] = (
    ("in process, BOHB", BOHB, 1, 13),
    ("two workers, Hyperband", HYPERBAND, 2, 6),
    ("two workers, BOHB", BOHB, 2, 6),
)
"""Name, method, workers and kills of each seed."""
LATEST = 0.2
"""Seconds after its share of the runs until a kill, at most."""
PATIENCE = 120.0
"""Seconds without a new run after which something hangs."""
Finished = dict[int, tuple[Any, ...]]


def objective(config: dict[str, float], budget: int) -> float:
    """Return a loss whose least value on the largest budget is 0."""
    time.sleep(0.02)
    return sum((value - 0.3) ** 2 for value in config.values()) + 1 / budget - 1 / 9


@dataclass(frozen=True)
class Study:
    """What is run."""

    path: Path
    method: Any
    workers: int
    seed: int
    trials: int


def begun(study: Study) -> int:
    """Begin a study, or go on with it, in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        minimize(
            objective, SPACE, study.method, study.trials, storage=f"sqlite:///{study.path}", seed=study.seed,
            workers=study.workers,
        )  # fmt: skip
        code = 0
    finally:
        os._exit(code)


def finished(path: Path) -> Finished:
    """Return what is stored of runs that ended well: configuration, budget and loss, by their numbers."""
    rows = asked(
        path,
        "SELECT t.number, c.value_json, b.value_json, v.value FROM trials t JOIN trial_values v USING (trial_id) "
        "JOIN trial_user_attributes c ON c.trial_id = t.trial_id AND c.key = 'config_number' "
        "JOIN trial_user_attributes b ON b.trial_id = t.trial_id AND b.key = 'budget' "
        "WHERE t.state IN ('COMPLETE', 'PRUNED')",
    )
    return {number: tuple(rest) for number, *rest in rows}


def asked(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what a study's file answers; nothing where its tables are not made yet."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error), error
            return []


def await_runs(path: Path, driver: int, count: int) -> bool:
    """Wait until so many runs are stored; False where the driver ended before."""
    until = time.monotonic() + PATIENCE
    while len(asked(path, "SELECT trial_id FROM trials WHERE state IN ('COMPLETE', 'PRUNED')")) < count:
        if os.waitpid(driver, os.WNOHANG)[0]:
            return False
        assert time.monotonic() < until, f"{count} runs were not reached in {PATIENCE:.0f} s"
        time.sleep(0.02)
    return True


def children(pid: int) -> list[int]:
    """Return the worker processes of a driver."""
    try:
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    except OSError:
        return []


def disturbed(study: Study, kills: int) -> tuple[Finished, Counter[str]]:
    """Run a study that is killed so often; return its runs, and how many were lost, doubled, were killed."""
    chance, count = random.Random(study.seed), Counter[str]()
    known: Finished = {}
    driver = begun(study)
    for kill in range(kills):
        if not await_runs(study.path, driver, round(study.trials * kill / (kills + 1))):
            break
        time.sleep(chance.uniform(0, LATEST))
        victims = children(driver)
        if study.workers > 1 and victims and chance.random() < 0.5:
            os.kill(chance.choice(victims), signal.SIGKILL)
            count["workers killed"] += 1
            continue
        os.kill(driver, signal.SIGKILL)
        os.waitpid(driver, 0)
        count["drivers killed"] += 1
        now = finished(study.path)
        count["lost"] += lost(known, now)
        known = now
        driver = begun(study)
    _, status = os.waitpid(driver, 0)
    assert status == 0, "the study ends by itself in the end"
    now = finished(study.path)
    given_up = asked(
        study.path,
        "SELECT trial_id FROM trial_user_attributes WHERE key = 'outcome' AND value_json LIKE '% 3 times\"%'",
    )
    count["given up"] += len(given_up)
    count["lost"] += lost(known, now) + max(0, study.trials - len(now) - len(given_up))
    count["double"] += double(now) + max(0, len(now) - study.trials)
    return now, count


def lost(before: Finished, now: Finished) -> int:
    """Return how many finished runs are not there any more as they were."""
    return sum(now.get(number) != row for number, row in before.items())


def double(runs: Finished) -> int:
    """Return how many runs have the configuration and budget of another one."""
    return len(runs) - len({row[:2] for row in runs.values()})


def undisturbed(study: Study) -> Finished:
    """Run a study in one go."""
    _, status = os.waitpid(begun(study), 0)
    assert status == 0
    return finished(study.path)


def regret(runs: Finished) -> float:
    """Return the least loss on the largest budget; the optimum is 0."""
    return float(min(loss for _, budget, loss in runs.values() if budget == "9"))


def measure(quick: bool) -> Result:
    """Disturb studies of all kinds."""
    seeds, trials = (1, 30) if quick else (SEEDS, TRIALS)
    total, rows, same = Counter[str](), {}, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name, method, workers, kills in KINDS:
            regrets: dict[str, list[float]] = {"undisturbed": [], "killed": []}
            for seed in range(seeds):
                study = Study(Path(folder) / f"{name}-{seed}.a.db", method, workers, seed, trials)
                straight = undisturbed(study)
                runs, count = disturbed(
                    replace(study, path=study.path.with_suffix(".b.db")), 2 if quick else kills
                )
                total.update(count)
                regrets["undisturbed"].append(regret(straight))
                regrets["killed"].append(regret(runs))
                same[name] += set(runs.values()) == set(straight.values())
                say(f"{name}, seed {seed}: {dict(count)}, regret {regret(runs):.4g}, else {regret(straight):.4g}")
            rows[name] = {arm: round(statistics.mean(values), 5) for arm, values in regrets.items()}
    ratios = {name: round(row["killed"] / row["undisturbed"], 3) for name, row in rows.items()}
    held = max(ratios[name] for name, *_ in KINDS[:2])
    done = total["drivers killed"] + total["workers killed"]
    wrong = total["lost"] + total["double"]
    return Result(
        value=wrong,
        unit=f"runs lost or doubled by {done} kills",
        goal=f"0 of 100 kills; final regret within {GOAL - 1:.0%} of the undisturbed study's",
        met=not quick and done == 100 and not wrong and held <= GOAL,
        seeds=range(seeds),
        detail={
            **{name: total[name] for name in ("lost", "double", "given up", "drivers killed", "workers killed")},
            "regret": rows, "regret_ratio": ratios,
            "the_same_runs": {name: f"{same[name]} of {seeds}" for name in rows},
        },
    )  # fmt: skip


if __name__ == "__main__":
    run("crash", measure)
