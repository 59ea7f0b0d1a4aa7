"""Objectives at the top of a module, as worker processes need them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def bowl(config, budget=None, context=None):
    """Return a loss with its least value at x = 0.3."""
    return (config["x"] - 0.3) ** 2


def slow(config, budget, context):
    """Take a moment, report, and say which process ran it."""
    context.report(1, config["x"])
    time.sleep(0.02)
    return {"loss": bowl(config), "process": os.getpid()}


def steady(config, budget, context):
    """Take a tenth of a second and say which process ran it."""
    time.sleep(0.1)
    return {"loss": bowl(config), "process": os.getpid()}


def crashes_once(config, budget, context):
    """End the process at the first run of a configuration below 0.5."""
    mark = context.checkpoint_dir / "tried"
    if config["x"] < 0.5 and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(config)


def crashes_always(config, budget, context):
    """End the process at every run of a configuration below 0.25: too few to stop a search."""
    if config["x"] < 0.25:
        os._exit(7)
    return bowl(config)


def hangs(config):
    """Never return below 0.5."""
    if config["x"] < 0.5:
        time.sleep(60)
    return bowl(config)


def hungry(config):
    """Ask for 4 GB below 0.5."""
    if config["x"] < 0.5:
        bytearray(4 * 10**9)
    return bowl(config)


def patient(config):
    """Write down that a run began, and take a while."""
    with Path(os.environ["PARETUNE_TEST_LOG"]).open("a") as log:
        log.write(f"{config['x']}\n")
    time.sleep(0.05)
    return bowl(config)


def two(config, budget, context):
    """Return two numbers that pull to either side, with noise of the run's seed."""
    return {"loss": bowl(config) + context.seed % 5 / 100, "size": 1 - config["x"]}
