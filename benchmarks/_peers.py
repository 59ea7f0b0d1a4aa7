"""Environments of peers: each has its own, so that no tool's demands on versions touch the project's.

They lie in the user's cache folder (XDG_CACHE_HOME is respected), not in the repository, and are made once for
each list of requirements. torch is the project's own CPU build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from _common import say

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_PRUNING = "torch-pruning==1.6.1"
PARETUNE = ("-e", str(ROOT))
"""Requirements of an environment in which paretune runs too."""


def environment(name: str, requirements: Sequence[str], *, torch: bool = True) -> Path:
    """Return the python of an environment that has torch and these requirements, made if there is none.

    requirements: pip's arguments, versions pinned: ("torch-pruning==1.6.1",). The project's constraints hold for
    all they name. An environment that pip could not finish is made anew next time.
    torch: without it neither torch nor the project's constraints are there, for peers whose pins clash with them.
    """
    folder = place(name, requirements)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / ".ready").exists():
        return python
    say(f"making the environment {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if torch:
        pip += ["-c", str(CONSTRAINTS)]
        subprocess.run([*pip, "--no-deps", "--extra-index-url", TORCH_INDEX, "torch"], check=True)
    subprocess.run([*pip, *requirements], check=True)
    (folder / ".ready").touch()
    return python


def place(name: str, requirements: Sequence[str]) -> Path:
    """Return the folder of an environment: another list, Python or set of constraints is another environment."""
    home = os.environ.get("XDG_CACHE_HOME")
    cache = Path(home) if home else Path.home() / ".cache"
    text = "\n".join([sys.version, CONSTRAINTS.read_text(), *requirements])
    return cache / "paretune" / "benchmarks" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
