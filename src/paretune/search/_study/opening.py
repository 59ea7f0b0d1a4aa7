"""Optuna's storage of a URL: opened to be read or written, and the studies and their versions that lie in it.

SQLite is written in WAL mode with a busy timeout, so that readers (a dashboard) do not stop the one writer.
"""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from typing import Any

from paretune.errors import InputError, nearest
from paretune.search._optuna import quiet
from paretune.search._study.database import TIMEOUT, TURNS, check, path_at, reading, told
from paretune.search._study.goals import Goals

DEFINING = ("method", "seed", "searched", "objectives", "constraints", "repeats", "space")
"""What of a study's plan must be the same when it goes on; the space may change, and is looked at last."""
COPYING = "copying"
"""The attribute of a version of another study: its name. One without the study's plan is still being made."""
OPTUNAS = {"version_info", "alembic_version", "studies", "trials", "study_user_attributes"}
"""Some of the tables that Optuna makes, by which a file is known to be of Optuna."""


def name_metrics(study: Any, goals: Goals) -> None:
    """Tell Optuna's tools what the values of a study's trials are, where they are not the loss alone."""
    import optuna

    if not goals.plain:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective for objective, _ in goals.objectives])


def plan_of(storage: str, name: str) -> dict[str, Any]:
    """Return what a stored study was begun with: space, method, seed, and its goals where they are not the loss
    alone; a study that is not there is an InputError."""
    import optuna

    with quiet(), told(path_at(storage), InputError):
        opened = known(storage, name)
        *_, name = versions_of(opened, name).values()
        attributes = optuna.load_study(study_name=name, storage=opened).user_attrs
    if "paretune" not in attributes:
        raise InputError(f"study '{name}' in {storage} was not made by paretune")
    return {key: attributes[key] for key in DEFINING if key in attributes}


def versions_of(storage: Any, name: str) -> dict[int, str]:
    """Return the names of a study's versions by their numbers: {1: "digits", 2: "digits@2"}; 1 is always there."""
    found = {1: name}
    for study in storage.get_all_studies():
        before, _, number = study.study_name.rpartition("@")
        if before == name and number.isdecimal() and {"paretune", COPYING} <= set(study.user_attrs):
            found[int(number)] = study.study_name
    return dict(sorted(found.items()))


def known(url: str | None, name: str) -> Any:
    """Return a storage that has a study of that name, to look at it; where there is none, nothing is changed."""
    import optuna

    path = path_at(url)
    if path is not None and not path.exists():
        raise InputError(f"there is no study '{name}' yet: {path} does not exist")
    opened = looked_at(url)
    names = set() if opened is None else set(optuna.get_all_study_names(opened))
    if name not in names:
        raise InputError(f"no study '{name}' in {url}.{nearest(name, names)} There are {sorted(names) or 'none'}")
    return opened


def looked_at(url: str | None) -> Any:
    """Return Optuna's storage of a URL to read it; None where there is none, and none is made."""
    path = path_at(url)
    if path is None:
        return _opened(url)
    if not path.exists():
        return None
    check(path)
    with told(path, InputError), closing(reading(path)) as connection:
        tables = {table for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return _opened(url, skip_table_creation=True) if tables >= OPTUNAS else None


def storage_of(url: str | None) -> Any:
    """Return Optuna's storage of a URL, to be written to and made if there is none; None is one in memory.

    One that cannot be used is an InputError. SQLite goes by WAL from then on.
    """
    path = path_at(url)
    if path is not None:
        check(path)
        with told(path, InputError), closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return _opened(url)


def _opened(url: str | None, **other: Any) -> Any:
    import optuna
    import sqlalchemy

    if url is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(url, str) or "://" not in url:
        raise InputError(f"storage={url!r} must be a URL as sqlite:///study.db")
    how: dict[str, Any] = {}
    if path_at(url) is not None:
        how = {"connect_args": {"timeout": TIMEOUT / TURNS, "factory": _Relaxed}}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=how, **other)
    except (RuntimeError, ImportError, sqlalchemy.exc.ArgumentError) as error:  # its schema, its driver, its name
        raise InputError(f"storage: {url} cannot be used, and was left as it is. {error}") from error


class _Relaxed(sqlite3.Connection):
    """In WAL mode a commit needs no fsync to survive the end of the process, only to survive a power cut."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL").close()
