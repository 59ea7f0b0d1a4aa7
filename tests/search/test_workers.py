"""Worker processes: what dies costs one run and is done again, what hangs is killed, nothing is lost or run
twice."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from multiprocessing import spawn

import optuna
import pytest

from paretune.errors import InputError, RunError
from paretune.search import Float, minimize
from paretune.search._study.executors import Job, Lost
from paretune.search._study.interrupt import noted
from paretune.search._study.processes import Processes
from paretune.search._study.storage import Store

SPACE = {"x": Float(0, 1)}


def test_several_workers_share_the_runs_and_the_budget(objectives):
    heard = []
    result = minimize(
        objectives.slow,
        SPACE,
        "random",
        budget=24,
        workers=2,
        listen=lambda kind, fields: heard.append((kind, fields)),
    )
    assert len(result.trials) == 24 and not any(trial.error for trial in result.trials)
    by_process = {(trial.worker, trial.values["process"]) for trial in result.trials}
    assert {worker for worker, _ in by_process} == {0, 1} and len(by_process) == 2, "each has a number of its own"
    assert os.getpid() not in {trial.values["process"] for trial in result.trials}
    reports = {fields["run"]: fields["loss"] for kind, fields in heard if kind == "report"}
    assert reports == {trial.number: trial.config["x"] for trial in result.trials}


def test_asynchronous_halving_on_workers(objectives):
    result = minimize(objectives.bowl, SPACE, {"bohb": {"min": 1, "max": 9}}, budget=60, workers=2)
    counted = Counter((trial.config_number, trial.rung) for trial in result.trials)
    assert max(counted.values()) == 1 and {trial.budget for trial in result.trials} == {1, 3, 9}
    assert abs(result.config["x"] - 0.3) < 0.1


def test_a_worker_that_dies_costs_its_run_which_is_done_again(objectives, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    how = {"workers": 2, "folder": tmp_path, "storage": url}
    result = minimize(objectives.crashes_once, SPACE, "random", budget=12, **how)
    lost = [trial for trial in result.trials if trial.error]
    assert lost and all("SIGKILL, as the system does when memory runs out" in trial.error for trial in lost)
    done = [trial for trial in result.trials if not trial.error]
    assert sorted(trial.config_number for trial in done) == list(range(12))
    assert {trial.config_number for trial in lost} == {t.config_number for t in done if t.attempt == 2}
    assert all(trial.seconds > 0 for trial in lost), "what it had run counts as work"
    work = sum(trial.seconds for trial in result.trials)
    for limit, more in ((0.99 * work, 0), (1.01 * work + 0.01, 1)):
        again = minimize(objectives.crashes_once, SPACE, "random", budget={"work": limit}, **how)
        assert (len(again.trials) > len(result.trials)) == bool(more)


def test_a_worker_that_is_killed_before_it_began_costs_nothing(objectives):
    """Found by benchmarks/crash.py: a run was given up after three workers that had not seen it."""
    pool = Processes(objectives.bowl, lambda *report: None, 1, timeout=None, memory=None)
    killed = []

    def kill():
        for worker in pool._workers:
            if worker.process.pid not in killed and len(killed) < deaths:
                killed.append(worker.process.pid)
                worker.process.kill()

    begun = pool._begun
    pool._begun = lambda: (begun(), kill())[0]
    try:
        for deaths, lost in ((2, False), (3, True)):
            killed.clear()
            pool.stop()
            pool.start(Job(7, {"x": 0.3}, None, 0, None))
            ((number, ended),) = pool.wait()
            assert number == 7 and isinstance(ended, Lost) == lost and len(killed) == deaths
    finally:
        pool.stop()


def test_a_worker_that_is_dead_before_it_is_given_its_run_costs_nothing(objectives):
    """The pipe is broken already; with many workers at the limit of memory that ended the whole study."""
    pool = Processes(objectives.bowl, lambda *report: None, 1, timeout=None, memory=None)
    begun, killed = pool._begun, []

    def stillborn():
        worker = begun()
        if len(killed) < 2:
            killed.append(worker.process.pid)
            worker.process.kill()
            worker.process.join()
        return worker

    pool._begun = stillborn
    try:
        pool.start(Job(7, {"x": 0.3}, None, 0, None))
        ((number, ended),) = pool.wait()
        assert number == 7 and not isinstance(ended, Lost) and len(killed) == 2
    finally:
        pool.stop()


def test_a_worker_that_dies_before_it_has_read_a_large_objective_does_not_hold_the_study_up(objectives):
    """More than a pipe holds, for a process that ends at once: nobody would ever read it."""
    large = partial(objectives.bowl, unread=b"x" * 300_000)
    pool = Processes(large, lambda *report: None, 1, timeout=None, memory=None)
    before = spawn.get_executable()
    spawn.set_executable("/bin/false")
    try:
        pool.start(Job(7, {"x": 0.3}, None, 0, None))
        ((number, ended),) = pool.wait()
        assert number == 7 and isinstance(ended, Lost)
    finally:
        spawn.set_executable(before)
        pool.stop()


def test_where_no_process_can_be_begun_it_is_said(objectives, monkeypatch):
    def full(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", full)
    with pytest.raises(RunError, match=r"no process could be begun.*temporarily unavailable.*is kept"):
        minimize(objectives.bowl, SPACE, "random", budget=4, workers=2)


def test_a_run_that_kills_its_worker_three_times_has_failed(objectives):
    result = minimize(objectives.crashes_always, SPACE, "random", budget=12, workers=2)
    by_config = Counter(trial.config_number for trial in result.trials)
    for number, count in by_config.items():
        runs = [trial for trial in result.trials if trial.config_number == number]
        assert count == (3 if runs[0].config["x"] < 0.25 else 1)
        assert runs[-1].error == ("its worker ended with exit code 7, 3 times" if count == 3 else "")


def test_a_run_that_takes_too_long_is_killed(objectives):
    began = time.monotonic()
    result = minimize(objectives.hangs, SPACE, "random", budget=4, timeout="2s")
    assert time.monotonic() - began < 40
    for trial in result.trials:
        slow = trial.config["x"] < 0.5
        assert trial.error == ("it took longer than timeout=2 s and was killed" if slow else "")
        assert trial.loss == math.inf if slow else trial.loss >= 0


def test_a_run_that_wants_too_much_memory_fails_alone(objectives):
    result = minimize(objectives.hungry, SPACE, "random", budget=4, memory=3 * 10**9)
    assert all(("MemoryError" in trial.error) == (trial.config["x"] < 0.5) for trial in result.trials)


def test_what_cannot_be_sent_is_told():
    with pytest.raises(InputError, match=r"cannot be sent to another process.*at the top of a module"):
        minimize(lambda config: 0.0, SPACE, "random", budget=3, workers=2)
    with pytest.raises(InputError, match="workers=0"):
        minimize(lambda config: 0.0, SPACE, "random", budget=3, workers=0)


SCRIPT = """
import sys
from objectives import patient
from paretune.search import Float, minimize
from paretune.search._study.executors import Job, Lost
from paretune.search._study.processes import Processes
from paretune.search._study.interrupt import noted
from paretune.search._study.storage import Store
if __name__ == "__main__":
    minimize(patient, {"x": Float(0, 1)}, {"hyperband": {"min": 1, "max": 9}}, budget=60,
             storage=sys.argv[1], workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_loses_no_finished_run(objectives, tmp_path, workers, sent):
    """At any moment: what was finished stays and is not run again, what was under way is."""
    (tmp_path / "study.py").write_text(SCRIPT)
    url, log = f"sqlite:///{tmp_path}/study.db", tmp_path / "log"
    command = [sys.executable, str(tmp_path / "study.py"), url, str(workers)]
    environment = os.environ | {"PARETUNE_TEST_LOG": str(log)}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not log.exists() or len(log.read_text().splitlines()) < 12:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(sent)
    driver.wait(30)
    study = optuna.load_study(study_name="study", storage=url)
    finished = {trial.number: trial.params for trial in study.trials if trial.state.is_finished()}
    under_way = sum(not trial.state.is_finished() for trial in study.trials)
    assert finished and under_way <= workers
    assert under_way == 0 or sent == signal.SIGKILL or workers == 1
    subprocess.run(command, env=environment, check=True)
    trials = optuna.load_study(study_name="study", storage=url).trials
    assert all(trials[number].params == params for number, params in finished.items())
    done = [trial for trial in trials if trial.state.is_finished() and not trial.user_attrs["outcome"]["error"]]
    runs = Counter((trial.user_attrs["config_number"], trial.user_attrs["budget"]) for trial in done)
    assert len(done) == 60 and max(runs.values()) == 1


STUDY = """
name: slow
objective: slow.py:slow
space: {x: {float: [0, 1]}}
method: random
budget: 6
workers: 2
"""
SLOW = """
import time
from pathlib import Path


def slow(config, budget):
    with Path(__file__).with_name("log").open("a") as log:
        log.write("began\\n")
    time.sleep(0.0 if Path(__file__).with_name("quick").exists() else SECONDS)
    return config["x"]
"""


def test_ctrl_c_is_noted_once():
    """It may come while a run's end is stored: nothing is half done then."""
    before = signal.getsignal(signal.SIGINT)
    with noted(True) as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with noted(False) as interrupted, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_a_run_is_stored_loses_nothing(objectives, tmp_path, monkeypatch):
    end = Store.end

    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(Store, "end", end)
        return end(*args, **kwargs)

    monkeypatch.setattr(Store, "end", interrupted)
    url = f"sqlite:///{tmp_path}/study.db"
    result = minimize(objectives.bowl, SPACE, "random", budget=30, workers=2, storage=url)
    assert result.ended == "interrupted" and 1 <= len(result.trials) <= 3
    assert all(trial.loss is not None and not trial.error for trial in result.trials)
    assert all(trial.state.is_finished() for trial in optuna.load_study(study_name="study", storage=url).trials)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_lets_runs_end_and_a_second_one_stops_them(tmp_path, times):
    """The command itself: once, what runs is finished and no more begun; twice, it ends now and can go on."""
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "3" if times == 1 else "600"))
    command = [sys.executable, "-m", "paretune", "search", "run", "study.yaml"]
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "log"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGINT)
    if times == 2:
        time.sleep(1)
        assert driver.poll() is None, "the first one waits for the runs"
        driver.send_signal(signal.SIGINT)
    printed, _ = driver.communicate(timeout=60)
    assert len(log.read_text().splitlines()) == 2
    stored = optuna.load_study(study_name="slow", storage=f"sqlite:///{tmp_path}/slow.db")
    assert [trial.state.is_finished() for trial in stored.trials] == [times == 1] * 2
    assert "driver" not in stored.user_attrs, "it has left"
    assert driver.returncode == (0 if times == 1 else 130)
    assert times == 2 or "2 runs, ended by interrupted" in printed
    (tmp_path / "quick").write_text("")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    attempts = [trial.user_attrs["attempt"] for trial in optuna.load_study(
        study_name="slow", storage=f"sqlite:///{tmp_path}/slow.db"
    ).trials]  # fmt: skip
    assert sorted(attempts) == ([1] * 6 if times == 1 else [1] * 6 + [2] * 2)
