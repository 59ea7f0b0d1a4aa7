"""Where the runs of a study leave checkpoints: a folder for each configuration, in one of the study's own.

A study knows its folder by a token that lies in both. A configuration's number says nothing of another study, or
of the same one begun anew: a run would go on from a file that another configuration left.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

TOKEN = "study.txt"


def folder_for(folder: Path, name: str, token: str) -> Path:
    """Return a study's folder, made if there is none: NAME, or NAME-2 and so on where that is another study's."""
    for number in count(1):
        place = folder / (name if number == 1 else f"{name}-{number}")
        mark = place / TOKEN
        if mark.is_file() and mark.read_text(encoding="utf-8") == token:
            return place
        if not place.exists() or not any(place.iterdir()):
            place.mkdir(parents=True, exist_ok=True)
            mark.write_text(token, encoding="utf-8")
            return place
    raise AssertionError


def folder_of(config: int, repeat: int) -> str:
    """Return the name of the folder where a configuration leaves its checkpoints.

    >>> folder_of(7, 0), folder_of(7, 2)
    ('config-00007', 'config-00007-repeat-2')
    """
    return f"config-{config:05}" + (f"-repeat-{repeat}" if repeat else "")
