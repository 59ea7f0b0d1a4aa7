"""One process runs a study: a second one is refused, a dead one is replaced, and who was replaced stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from paretune.errors import InputError, RunError
from paretune.search import Float, minimize
from paretune.search._study import driver
from paretune.search._study.definition import plan_to_json
from paretune.search._study.driver import Seat, process_start
from paretune.search._study.method import method_of
from paretune.search._study.storage import Store

SPACE = {"x": Float(0, 1)}
DRIVES = """
import sys, time
from paretune.search import Float, minimize
def slow(config):
    print("runs", flush=True)
    time.sleep(float(sys.argv[2]))
    return config["x"]
minimize(slow, {"x": Float(0, 1)}, "random", budget=2, storage=sys.argv[1])
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def store(url):
    from paretune.search import Space

    return Store(url, "study", plan_to_json(Space(SPACE), method_of("random"), 0), resume=False)


def bowl(config):
    return (config["x"] - 0.3) ** 2


def started(url, seconds):
    """Return a process that drives a study and is inside of its first run."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVES, url, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "runs\n"
    return process


def put(url, record):
    """Write a record as if a process had."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'driver'")
        connection.execute(
            "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'driver', ?)",
            (json.dumps(asdict(record)),),
        )


def test_a_second_driver_is_refused_until_the_first_is_dead(url, store):
    process = started(url, 60)
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        minimize(bowl, SPACE, "random", budget=4, storage=url)
    assert time.monotonic() - began < 5, "at once"
    assert f"process {process.pid} on {socket.gethostname()}, since 20" in str(refused.value)
    process.send_signal(signal.SIGKILL)
    while process_start(process.pid):  # not waited for: a zombie drives nothing
        time.sleep(0.001)
    began = time.monotonic()
    with store.seat.taken():
        assert time.monotonic() - began < 1
    result = minimize(bowl, SPACE, "random", budget=4, storage=url)
    process.wait()
    assert [trial.attempt for trial in result.trials] == [1, 2, 1, 1, 1]  # the first was under way, and lost
    assert result.trials[0].error.startswith("lost")


def test_a_driver_that_ends_leaves_no_record(url, store):
    def fails(config):
        assert store.seat.look().pid == os.getpid()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize(fails, SPACE, "random", budget=4, storage=url)
    assert store.seat.look() is None
    minimize(bowl, SPACE, "random", budget=4, storage=url)
    assert store.seat.look() is None


def test_the_same_process_drives_a_study_once(url):
    def twice(config):
        with pytest.raises(InputError, match=f"is being run by process {os.getpid()} on "):
            minimize(bowl, SPACE, "random", budget=4, storage=url)
        return minimize(bowl, SPACE, "random", budget=1, storage=url, name="another").best.loss

    assert len(minimize(twice, SPACE, "random", budget=2, storage=url).trials) == 2


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, False),  # of this process, but left by an error
        ({"pid": 1, "started": process_start(1)}, True),
        ({"pid": 1, "started": "12345678901"}, False),  # the number is used again
        ({"pid": 2**22 + 1}, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, True),
        ({"host": "elsewhere", "beat": -59.0}, True),
        ({"host": "elsewhere", "beat": -61.0}, False),
        ({"machine": "another boot", "beat": -61.0}, False),
    ],
)
def test_who_is_alive(url, store, change, alive):
    with store.seat.taken() as mine:
        record = replace(mine, token="another", **change | {"beat": time.time() + change.get("beat", 0.0)})
    assert record.alive == alive
    put(url, record)
    if alive:
        with pytest.raises(InputError, match="is being run by process"):
            minimize(bowl, SPACE, "random", budget=2, storage=url)
        assert store.seat.look() == record, "it is left as it was"
    else:
        assert len(minimize(bowl, SPACE, "random", budget=2, storage=url).trials) == 2


def test_a_sign_of_life_is_given_and_one_who_is_replaced_stops(url, store, monkeypatch):
    """A process that slept too long, say a notebook that was closed: its study is another's now."""
    monkeypatch.setattr(driver, "BEAT", 0.05)
    seen = []

    def sleeps(config):
        seen.append(store.seat.look().beat)
        time.sleep(0.2)
        if len(seen) == 3:
            put(url, replace(store.seat.look(), host="elsewhere", token="another", since="later"))
            time.sleep(0.2)
        return 0.0

    with pytest.raises(RunError, match=r"was taken over by process .* on elsewhere, since later"):
        minimize(sleeps, SPACE, "random", budget=9, storage=url)
    assert len(seen) == 3 and seen[0] < seen[1] < seen[2]
    assert store.seat.look().token == "another"
    stored = store.read()
    assert [trial.loss for trial in stored] == [0.0, 0.0, None]


def test_of_many_that_begin_at_once_one_drives(url, store):
    """Each takes the seat and leaves it; never are two in it."""
    inside, most, refused = [], [], []
    gate = threading.Barrier(6)

    def begins(number):
        seat = Seat(store.storage, 1, "study")
        gate.wait()
        for _ in range(10):
            try:
                with seat.taken():
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.002)
                    inside.remove(number)
            except InputError:
                refused.append(number)
            seat = Seat(store.storage, 1, "study")

    threads = [threading.Thread(target=begins, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 60 and refused
    assert store.seat.look() is None
