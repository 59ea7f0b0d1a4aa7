"""csv: a table with a header, gzipped or not, as arrays.

A column is *number* where every value that is not missing reads as a number; else *category* where at most half of
the rows differ; else *text*. Categories are coded in sorted order from 1; code 0 stands for a missing value and
for one that the training table did not have, so that a word first seen in production is a case that
the model knows.
"""

from __future__ import annotations

import csv as standard
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from paretune.errors import DataError, InputError, nearest
from paretune.zoo._files import content, damaged

Kind = Literal["number", "category", "text"]
EXPECTED = "a CSV file in UTF-8 with a header line, gzipped or not"


@dataclass(frozen=True)
class Table:
    """The columns of one CSV file, and how its categories are coded."""

    columns: dict[str, np.ndarray]
    """Name -> (rows,): float32 for numbers (NaN where missing), int64 codes for categories, str for text."""
    categories: dict[str, tuple[str, ...]]
    """Name -> the category of code 1, 2, ...; a number or text column has no entry."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def kind(self, name: str) -> Kind:
        """Return what the column is."""
        if name in self.categories:
            return "category"
        return "number" if self.columns[name].dtype == np.float32 else "text"

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """Return float32 (rows, width): numbers as they are, a category as one 0/1 column for each code from 0."""
        blocks = []
        for name in names:
            if name not in self.columns:
                raise InputError(f"the table has no column '{name}'.{nearest(name, self.columns)}")
            kind, values = self.kind(name), self.columns[name]
            if kind == "text":
                raise InputError(
                    f"column '{name}' is text, which has no place in a matrix of numbers; leave it out"
                )
            codes = np.arange(len(self.categories.get(name, ())) + 1)
            blocks.append(values[:, None] if kind == "number" else (values[:, None] == codes))
        return np.concatenate(blocks, axis=1, dtype=np.float32)


def csv(
    path: str | Path, *, kinds: Mapping[str, Kind] | None = None, like: Table | None = None, missing: str = "?"
) -> Table:
    """Return the table of a CSV file.

    kinds: the kind of columns where the rule above guesses wrong. like: the training table, whose kinds and codes
    are used, so that train and test agree. missing: the mark of a missing value, beside the empty field. A damaged
    file, a row of another length, no row, or columns unlike those of `like` is a DataError.
    """
    path = Path(path)
    header, rows = _rows(path)
    if like is not None and list(like.columns) != header:
        raise DataError(
            f"{path} has columns {', '.join(header)}; the table it must match has {', '.join(like.columns)}"
        )
    _check_kinds(path, kinds or {}, header)
    columns: dict[str, np.ndarray] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for name, values in zip(header, zip(*rows, strict=True), strict=True):
        kind = like.kind(name) if like is not None else (kinds or {}).get(name) or _guess(values, missing)
        if kind == "number":
            columns[name] = _numbers(path, name, values, missing)
        elif kind == "text":
            columns[name] = np.asarray(values, dtype=np.str_)
        else:
            known = like.categories[name] if like is not None else _categories(values, missing)
            codes = {category: code for code, category in enumerate(known, start=1)}
            columns[name] = np.asarray([codes.get(value, 0) for value in values], np.int64)
            categories[name] = known
    return Table(columns, categories)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        lines = list(
            standard.reader(io.StringIO(content(path, EXPECTED).decode("utf-8"), newline=""), strict=True)
        )
    except (UnicodeDecodeError, standard.Error) as error:
        raise damaged(path, EXPECTED, str(error)) from error
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise damaged(path, EXPECTED, "it has no row beneath a header")
    header, rows = lines[0], lines[1:]
    if len(set(header)) != len(header):
        raise damaged(path, EXPECTED, f"its header names a column twice: {', '.join(header)}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise damaged(path, EXPECTED, f"row {number} has {len(row)} fields, the header {len(header)}")
    return header, rows


def _check_kinds(path: Path, kinds: Mapping[str, Kind], header: Sequence[str]) -> None:
    for name, kind in kinds.items():
        if name not in header:
            raise InputError(f"kinds: {path} has no column '{name}'.{nearest(name, header)}")
        if kind not in get_args(Kind):
            raise InputError(f"kinds: {name}={kind!r} must be one of {', '.join(get_args(Kind))}")


def _guess(values: Sequence[str], missing: str) -> Kind:
    present = [value for value in values if value not in ("", missing)]
    if present and all(_is_number(value) for value in set(present)):
        return "number"
    return "category" if 2 * len(set(present)) <= len(values) else "text"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _categories(values: Sequence[str], missing: str) -> tuple[str, ...]:
    return tuple(sorted(set(values) - {"", missing}))


def _numbers(path: Path, name: str, values: Sequence[str], missing: str) -> np.ndarray:
    numbers = np.full(len(values), np.nan, np.float32)
    for row, value in enumerate(values):
        if value in ("", missing):
            continue
        try:
            numbers[row] = float(value)
        except ValueError:
            raise DataError(
                f"{path}: row {row + 1}, column '{name}' is {value!r}, not a number; correct it, or read the "
                f"column as kinds={{'{name}': 'category'}}"
            ) from None
    return numbers
