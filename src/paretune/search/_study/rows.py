"""The runs of a study as Optuna keeps them, by SQL where its tables are known: its own reading takes seconds."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

from paretune.search._study.database import reading

KNOWN = 12
"""Optuna's schema, of which the tables are read here."""


@final
@dataclass(frozen=True)
class Stored:
    """A trial as Optuna's storage has it."""

    number: int
    identity: int
    loss: float | None
    finished: datetime | None
    attributes: dict[str, Any]


def stored(path: Path | None, storage: Any, study: int) -> Iterator[Stored]:
    """Yield the trials of a study in the order of their numbers. path: of an SQLite database, else None."""
    if path is not None:
        with closing(reading(path)) as connection:
            version = connection.execute("SELECT schema_version FROM version_info").fetchone()
            if version == (KNOWN,):
                yield from _by_sql(connection, study)
                return
    yield from _by_optuna(storage, study)


def _by_optuna(storage: Any, study: int) -> Iterator[Stored]:
    from optuna.trial import TrialState

    for trial in storage.get_all_trials(study, deepcopy=False):
        loss: float | None = None
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            loss = float(trial.values[0])
        elif trial.state == TrialState.FAIL:
            loss = math.inf
        yield Stored(trial.number, trial._trial_id, loss, trial.datetime_complete, trial.user_attrs)


def _by_sql(connection: sqlite3.Connection, study: int) -> Iterator[Stored]:
    """Yield the trials of a study in the order of their numbers, in three queries."""
    attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    rows = connection.execute(
        "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a JOIN trials t USING (trial_id) "
        "WHERE t.study_id = ? AND a.key != 'traceback'",
        (study,),
    )
    for identity, key, text in rows:
        attributes[identity][key] = json.loads(text)
    losses = dict(
        connection.execute(
            "SELECT v.trial_id, v.value FROM trial_values v JOIN trials t USING (trial_id) WHERE t.study_id = ? "
            "AND v.objective = 0",
            (study,),
        ).fetchall()
    )
    trials = connection.execute(
        "SELECT trial_id, number, state, datetime_complete FROM trials WHERE study_id = ? ORDER BY number",
        (study,),
    )
    for identity, number, state, finished in trials:
        loss = losses[identity] if state in ("COMPLETE", "PRUNED") else math.inf if state == "FAIL" else None
        ended = None if finished is None else datetime.fromisoformat(finished)
        yield Stored(number, identity, loss, ended, attributes[identity])
