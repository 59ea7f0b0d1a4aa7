"""Every command and every line of Python in the README runs, in the order in which a reader would type them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
STEPS = [
    (kind, step)
    for kind, text in BLOCKS
    for step in ([text] if kind == "python" else [line for line in text.splitlines() if line.strip()])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds only the examples, for all steps in turn."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.mark.parametrize(("kind", "text"), STEPS, ids=[step.strip().splitlines()[0][:70] for _, step in STEPS])
def test_runs(folder, kind, text):
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "examples"),  # the Python of the README imports an example as its own module
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    if kind == "python":
        assert list((folder / "out").glob("*.onnx"))
        assert (folder / "report.html").stat().st_size > 1000


def test_every_command_is_shown():
    from paretune.cli import app

    shown = {step.split()[1] for kind, step in STEPS if kind == "bash"}
    prose = set(re.findall(r"`paretune (\w+)", (ROOT / "README.md").read_text()))
    elsewhere = {"demo"}  # `make demo` is that command: tests/e2e
    assert set(app.list_commands(None)) <= shown | prose | elsewhere


def test_every_make_target_and_link_exists():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (?:\w+= )?(\w+)`?", readme.replace("and make,", "")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), f"README links to {link}"
