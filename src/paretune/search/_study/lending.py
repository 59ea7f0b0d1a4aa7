"""Lending workers to the process that runs a study (`join`): the side of the one that lends."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, wait
from typing import Any

from paretune.errors import InputError, RunError
from paretune.search._study.driver import Driver, process_start
from paretune.search._study.objective import Objective
from paretune.search._study.processes import pickled, serve


def lend(driver: Driver, objective: Objective, workers: int, memory: int | None) -> None:
    """Serve a study's driver with so many processes until it ends; one that dies is begun anew.

    Interrupted, they are ended; the driver begins their runs again.
    """
    if not driver.address:
        raise InputError(
            f"join: the study is run by {driver}, inside of that process alone; begin it with workers=2, so that "
            "it can take workers of others"
        )
    if not driver.here:
        raise InputError(f"join: the study is run by {driver}; workers are lent on that machine only")
    sent, context = pickled(objective, workers), multiprocessing.get_context("spawn")
    processes: list[Any] = []
    try:
        while driver.alive:
            while len(processes) < workers:
                processes.append(context.Process(target=_lent, args=(driver, sent, memory), daemon=True))
                processes[-1].start()
            wait([process.sentinel for process in processes], 1.0)
            for process in [process for process in processes if not process.is_alive()]:
                if process.exitcode == 0:  # it was sent home
                    return
                if process.exitcode == 1:
                    raise RunError("join: a lent worker could not begin; what it printed says why")
                processes.remove(process)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _lent(driver: Driver, objective: bytes, memory: int | None) -> None:
    """Go to the driver and serve it, in a process of its own."""
    try:
        connection = Client(driver.address, authkey=bytes.fromhex(driver.key))
        connection.send((os.getpid(), process_start(os.getpid())))
    except (OSError, EOFError, AuthenticationError):
        sys.exit(0)  # it has ended in the meantime
    serve(connection, objective, memory)
