"""A damaged database: a copy of it is kept, and what can still be read of its runs is written beside it.

Rows are asked for one by one, by their numbers alone: a page that is damaged then costs the rows on it, whatever
has become of indexes and of the order of pages.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from paretune.files import disk_error, sha256, write_text

MISSES = 2000
"""After so many numbers without a row a table is taken to end, where its last number cannot be read."""
LEAST = 8
"""Bytes of a row at the least: a larger number is none."""
FINISHED = ("COMPLETE", "PRUNED", "FAIL")


def keep_damaged(path: Path, problem: str) -> str:
    """Copy a damaged database, write what can be read of it, and return what to tell; it stays as it was.

    The names of both files hold eight digits of its hash: once for each damage, and no earlier copy is replaced.
    """
    digits = sha256(path)[:8]
    copy, runs = (
        path.with_name(f"{path.name}.{end}") for end in (f"damaged-{digits}", f"salvaged-{digits}.jsonl")
    )
    try:
        for end in ("-wal", ""):
            source, target = path.with_name(path.name + end), copy.with_name(copy.name + end)
            if source.exists() and not target.exists():
                shutil.copyfile(source, target)
    except OSError as error:
        raise disk_error(copy, error) from error
    lines = list(salvaged(path))
    write_text(runs, "".join(f"{json.dumps(line)}\n" for line in lines))
    return (
        f"{path} is damaged ({' '.join(problem.split())}) and is not used. A copy is kept in {copy}, and the "
        f"{len(lines)} finished runs that could be read are in {runs}, one line each; choose another storage"
    )


def salvaged(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the finished runs of which configuration and outcome can be read, as plain JSON, in order.

    What else is said of them may be missing.
    """
    most = path.stat().st_size // LEAST
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = lambda content: content.decode(errors="replace")
            studies = dict(_rows(connection, most, "studies", "study_id, study_name"))
            trials = list(_rows(connection, most, "trials", "trial_id, study_id, number, state"))
            losses = dict(_rows(connection, most, "trial_values", "trial_id, value"))
            attributes: dict[int, dict[str, Any]] = defaultdict(dict)
            for trial, key, text in _rows(connection, most, "trial_user_attributes", "trial_id, key, value_json"):
                try:
                    attributes[trial][key] = json.loads(text)
                except (ValueError, TypeError):
                    continue  # bytes of something else
    except sqlite3.DatabaseError:
        return  # not even its first page can be read
    for trial, study, number, state in sorted(
        trials, key=lambda row: [value if isinstance(value, int) else -1 for value in row[1:3]]
    ):
        found = attributes[trial]
        if state in FINISHED and "config" in found and "outcome" in found and (
            state == "FAIL" or trial in losses
        ):  # fmt: skip
            yield {"study": studies.get(study), "number": number, "loss": losses.get(trial)} | found


def _rows(connection: sqlite3.Connection, most: int, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table that can be read. most: no number is above it, whatever the table says."""
    try:
        last = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
    except sqlite3.DatabaseError:
        last = None
    number = missed = 0
    while number < most and (number < last if last is not None else missed < MISSES):
        number += 1
        try:
            row = connection.execute(f"SELECT {columns} FROM {table} WHERE rowid = ?", (number,)).fetchone()
        except sqlite3.DatabaseError:
            row = None
        missed = 0 if row else missed + 1
        if row:
            yield row
