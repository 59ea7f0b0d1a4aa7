"""What every reader does first: fetch the bytes, or say plainly why it cannot."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path

from paretune.errors import DataError, nearest


def content(path: Path, expected: str) -> bytes:
    """Return a file's bytes, expanded where its name ends with .gz or .bz2 or it begins like gzip.

    expected: what the file should hold, for the error ("an idx file of the MNIST family").
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise missing(path, expected, error) from error
    try:
        if raw[:2] == b"\x1f\x8b":
            return gzip.decompress(raw)
        return bz2.decompress(raw) if path.suffix == ".bz2" else raw
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, expected, f"it does not decompress: {error}") from error


def missing(path: Path, expected: str, error: OSError) -> DataError:
    """Return the error for a file that cannot be opened, with the nearest name beside it."""
    folder = Path(path).parent
    beside = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
    return DataError(
        f"cannot read {path}: {reason}.{nearest(Path(path).name, beside)} "
        f"Expected {expected}; check the path, or fetch the data again"
    )


def damaged(path: Path, expected: str, problem: str) -> DataError:
    """Return the error for a file whose content is not what it should be."""
    return DataError(f"{path} is damaged or of another format: {problem}. Expected {expected}; fetch it again")
