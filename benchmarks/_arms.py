"""Arms: a benchmark that trains runs method by method and seed by seed, and goes on where it was stopped.

Each finished arm is one JSON file; with the same settings it is read, not run again. To measure an arm anew,
delete its file. Differences between methods are paired over test samples, correctness averaged over seeds; the
spread over seeds stands beside.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import paretune
from _common import say
from paretune.files import write_json

WORK = Path(__file__).parent / ".work"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Arms:
    """The arms of one benchmark, in a folder of their own."""

    folder: Path
    """Where an arm that is running keeps its checkpoints."""
    kept: Path | None = None
    """Where finished arms are: beside the result that they make, for others to look at; None: in the folder."""

    def finish(self, name: str, settings: dict[str, Any], run: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Return what an arm found: read if it was finished with these settings, else run and saved.

        run: (folder for checkpoints, removed when the arm is finished) -> plain JSON. The seconds it took are
        added, and the code of paretune that it ran on.
        """
        path = (self.kept or self.folder) / f"{name}.json"
        settings = json.loads(json.dumps(settings))
        if path.exists():
            saved: dict[str, Any] = json.loads(path.read_text())
            if saved["settings"] == settings:
                say(f"{name}: finished before")
                return saved
        say(f"{name}: begins")
        scratch = self.folder / f"{name}.running"
        scratch.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        found = run(scratch)
        found = {**found, "name": name, "settings": settings, "code": code(), "seconds": time.monotonic() - start}
        write_json(path, found)
        shutil.rmtree(scratch)
        say(f"{name}: {found['seconds']:.0f} s")
        return found


def code() -> str:
    """Return a short hash of paretune's own source, so that arms of unlike code are told apart."""
    digest = hashlib.sha256()
    root = Path(paretune.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def packed(correct: np.ndarray) -> str:
    """Return which samples were right, as text.

    >>> unpacked(packed(np.array([True, False, True])), 3)
    array([ True, False,  True])
    """
    return np.packbits(np.asarray(correct, bool)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """Return the samples that `packed` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


def compared(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the difference of accuracy in points, with its 95 % interval over samples and its spread over seeds.

    ours, theirs: one array of right or wrong per seed, the same samples in the same order. Percentile bootstrap
    over samples, 10,000 draws, correctness averaged over seeds.
    """
    a, b = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    gap = (a - b) * 100
    # The mean of a resample depends on how often each value was drawn: a multinomial over the few distinct values.
    values, counts = np.unique(gap, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(gap), counts / len(gap), size=RESAMPLES) @ values / len(gap)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "points": float(gap.mean()),
        "low": float(low),
        "high": float(high),
        "ours": [float(np.mean(seed) * 100) for seed in ours],
        "theirs": [float(np.mean(seed) * 100) for seed in theirs],
    }


def estimate(text: str, seconds: float) -> None:
    """Tell how long something will take."""
    say(f"{text}: about {seconds / 60:.0f} minutes" if seconds > 90 else f"{text}: about {seconds:.0f} s")
