"""Start the worker in a fresh process and read what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import paretune
from paretune.errors import VerificationError

TIMEOUT = 600.0


def check_in_fresh_process(model: Path, reference: Path, *, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Return what `paretune.export._worker` prints about a file; a crash or a hang is a VerificationError."""
    source = str(Path(paretune.__file__).parents[1])
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH")) if part)
    # -P: a numpy.py in the user's folder is not imported in numpy's place
    command = [sys.executable, "-P", "-m", "paretune.export._worker", str(model), str(reference)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(
            f"{model.name}: the check in a fresh process did not end in {timeout:g} s"
        ) from error
    if done.returncode != 0:
        how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"failed ({done.returncode})"
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise VerificationError(f"{model.name}: the check in a fresh process {how}: {tail or 'it said nothing'}")
    try:
        outcome: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise VerificationError(f"{model.name}: the check printed no JSON: {done.stdout[-300:]!r}") from error
    return outcome
