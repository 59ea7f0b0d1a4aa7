"""Workers that are lent to the process that runs a study."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import optuna
import pytest

from paretune.errors import InputError
from paretune.search import Float, minimize
from paretune.search._study.driver import process_start
from paretune.search._study.guests import Desk

FOREVER = 100_000
"""Runs of a study that does not end by itself, however long a guest takes to come."""
SPACE = {"x": Float(0, 1)}
SCRIPT = """
import sys
from objectives import steady
from paretune.search import Float, minimize
if __name__ == "__main__":
    minimize(steady, {"x": Float(0, 1)}, "random", budget=int(sys.argv[3]), storage=sys.argv[1],
             workers=int(sys.argv[2]), join=True, strict=True)
"""


@pytest.fixture
def begun(objectives, tmp_path):
    """Begin a study, or join it, in a process of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    url, processes = f"sqlite:///{tmp_path}/study.db", []

    def begin(workers, budget):
        command = [sys.executable, str(tmp_path / "script.py"), url, str(workers), str(budget)]
        processes.append(subprocess.Popen(command))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def trials(url):
    return optuna.load_study(study_name="study", storage=url).trials


def ran(url, count):
    """Wait until so many runs are finished, and return the processes that ran them."""
    until, found = time.monotonic() + 60, Counter()
    query = (
        "SELECT json_extract(value_json, '$.values.process') FROM trial_user_attributes "
        "JOIN trials USING (trial_id) WHERE key = 'outcome' AND state = 'COMPLETE'"
    )
    while found.total() < count:
        assert time.monotonic() < until
        time.sleep(0.05)
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)) as connection:
            try:
                found = Counter(process for (process,) in connection.execute(query))
            except sqlite3.OperationalError:
                continue  # there are no tables yet
    return found


def whole(url):
    """Check that every configuration that was begun has finished once, and return how many there are."""
    done = [trial for trial in trials(url) if trial.state == optuna.trial.TrialState.COMPLETE]
    begun = {trial.user_attrs["config_number"] for trial in trials(url)}
    assert sorted(trial.user_attrs["config_number"] for trial in done) == sorted(begun) == list(range(len(begun)))
    return len(begun)


def test_lent_workers_share_the_runs(objectives, begun, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    driver = begun(2, FOREVER)
    ran(url, 3)
    with pytest.raises(InputError, match=rf"is being run by process {driver.pid} on .*--join"):
        minimize(objectives.steady, SPACE, "random", FOREVER, storage=url)
    with pytest.raises(InputError, match="strict: the objective's source"):
        minimize(whole, SPACE, "random", FOREVER, storage=url, workers=2, join=True)

    def end():
        while len(ran(url, 3)) < 4:
            assert driver.poll() is None
        driver.send_signal(signal.SIGINT)

    ending = threading.Thread(target=end)
    ending.start()
    result = minimize(objectives.steady, SPACE, "random", FOREVER, storage=url, workers=2, join=True)
    ending.join()
    assert driver.wait(30) == 0 and result.ended.startswith(f"the end of process {driver.pid}")
    assert len(result.trials) == whole(url) and not any(trial.error for trial in result.trials)
    assert len({trial.values["process"] for trial in result.trials}) == 4


def test_who_lends_and_dies_costs_its_runs_and_who_is_left_goes_on(begun, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    driver = begun(2, FOREVER)
    before = ran(url, 3)
    guest = begun(2, 80)
    while len(now := ran(url, 3)) < 4:
        assert driver.poll() is None and guest.poll() is None
    lent = int(max(set(now) - set(before)))
    os.kill(lent, signal.SIGKILL)  # another one takes its place
    while len(ran(url, 3)) < 5:
        assert driver.poll() is None and guest.poll() is None
    driver.send_signal(signal.SIGKILL)  # who lent runs the study now
    driver.wait()
    assert guest.wait(90) == 0
    assert whole(url) >= 80
    whys = {t.user_attrs["outcome"]["error"] for t in trials(url) if t.state == optuna.trial.TrialState.FAIL}
    assert whys <= {"lost: its worker, lent by another process, ended", "lost: the study's process ended"}


def test_a_driver_without_workers_takes_none(objectives, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"

    def alone(config):
        with pytest.raises(InputError, match="inside of that process alone; begin it with workers=2"):
            minimize(objectives.bowl, SPACE, "random", 4, storage=url, workers=2, join=True)
        return 0.0

    minimize(alone, SPACE, "random", 1, storage=url)


def test_join_where_nobody_drives_drives(objectives, tmp_path):
    result = minimize(objectives.bowl, SPACE, "random", 4, storage=f"sqlite:///{tmp_path}/study.db", join=True)
    assert len(result.trials) == 4 and result.ended == "trials=4"


def test_who_has_not_the_key_is_sent_away():
    desk = Desk()
    try:
        with pytest.raises(AuthenticationError):
            Client(desk.address, authkey=b"wrong")
        Client(desk.address, authkey=desk.key).send((os.getpid(), process_start(os.getpid())))
        assert desk.bell.poll(10)
        ((guest, connection),) = desk.arrivals()
        assert guest.is_alive() and guest.pid == os.getpid() and not desk.bell.poll()
        connection.close()
    finally:
        desk.close()
    assert not desk._thread.is_alive()
