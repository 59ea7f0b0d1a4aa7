"""npz: named NumPy arrays in one file. Pickled objects inside are refused, since opening one runs its code."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paretune.errors import DataError, nearest
from paretune.zoo._files import damaged, missing

EXPECTED = "a NumPy .npz file of plain arrays"


def npz(path: str | Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name: all of them, or those of `names`.

    A missing or damaged file, a name that is not in it, or an array of pickled objects is a DataError.
    """
    path = Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise damaged(path, EXPECTED, "it is one bare .npy array")
        with loaded as archive:
            for name in names or ():
                if name not in archive.files:
                    raise DataError(
                        f"{path} has no array '{name}'.{nearest(name, archive.files)} "
                        f"It has {', '.join(archive.files)}"
                    )
            return {name: archive[name] for name in (archive.files if names is None else names)}
    except FileNotFoundError as error:
        raise missing(path, EXPECTED, error) from error
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, EXPECTED, str(error).splitlines()[0]) from error
