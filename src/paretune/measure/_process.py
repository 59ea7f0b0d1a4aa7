"""Load time and memory of a file, seen in a fresh process that holds the runtime and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paretune.errors import RunError
from paretune.measure._child import INPUT
from paretune.measure._engine import open_engine
from paretune.measure._feeds import example_feeds, reference_inputs
from paretune.target import Target

PROCESSES = 3
LONGEST_SECONDS = 600


class FreshProcess(NamedTuple):
    """What a fresh process needed for one file."""

    load_ms: float
    """Milliseconds to create the session."""
    peak_memory_bytes: int
    """Peak resident memory while loading and running, above that of the bare runtime."""


def fresh_process(path: Path | str, target: Target, *, inputs: Any = None) -> FreshProcess:
    """Load and run a file in fresh processes (three), and return the medians of load time and peak memory.

    inputs: as `example_feeds` takes them; else those stored beside the file, else made up.
    """
    path = Path(path)
    given = inputs if inputs is not None else reference_inputs(path)
    feeds = example_feeds(open_engine(path, target), target.batch, given)
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "inputs.npz"
        np.savez(stored, **{INPUT + name: array for name, array in feeds.items()})  # type: ignore[arg-type]
        seen = [_once(path, target, stored) for _ in range(PROCESSES)]
    load_ms = float(np.median([one["load_ms"] for one in seen]))
    return FreshProcess(load_ms, int(np.median([one["peak_memory_bytes"] for one in seen])))


def _once(path: Path, target: Target, stored: Path) -> dict[str, Any]:
    arguments = [str(path.resolve()), target.runtime, str(target.threads), str(target.batch), str(stored)]
    # -P: the folder it is started in must not stand before the installed packages.
    command = [sys.executable, "-P", "-m", "paretune.measure._child", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{path} did not load and run in a fresh process within {LONGEST_SECONDS} s") from error
    content: dict[str, Any] = {}
    if done.returncode == 0:
        content = json.loads(done.stdout.splitlines()[-1])
    problem = content.get("error") or (None if content else f"it ended with code {done.returncode}")
    if problem:
        raise RunError(f"{path} does not load or run in a fresh process: {problem}")
    return content
