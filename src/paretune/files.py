"""Files that are never half written: temporary file, fsync, rename.

A reader, or a run that is resumed after a kill, sees the old file or the new one, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paretune.errors import RunError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    On any failure the temporary file is removed and what stood at `path` is untouched; a read-only or
    full disk is a RunError that names the file.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda temporary: _ignore(temporary.write_bytes(content)))


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON (2 spaces, keys in the order given, no NaN) atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(path: Path, error: OSError) -> RunError:
    """Say in the user's words why a file could not be written, and what to do."""
    what = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EROFS: "the file system is read-only; choose another folder with --out",
        errno.EACCES: "no permission to write there; choose another folder with --out",
        errno.EPERM: "no permission to write there; choose another folder with --out",
        errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder with --out",
        errno.EEXIST: "a part of that path is a file, not a folder; choose another folder with --out",
    }.get(error.errno or 0, error.strerror or str(error))
    return RunError(f"cannot write {path}: {what}. What was finished before is kept.")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _ignore(_: object) -> None:
    """Turn an expression into a statement, for lambdas that must return None."""
