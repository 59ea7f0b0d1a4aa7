"""What CONTRIBUTING says about a score in ten lines is true: its text is taken, installed and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Install the score of CONTRIBUTING as a stranger's package: a module, and metadata with its entry point."""
    (tmp_path / "my_package.py").write_text(block("python"))
    found = re.search(r'^(\w+) = "([\w:]+)"$', block("toml"), re.MULTILINE)
    assert found is not None
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[paretune.scores]\n{found[1]} = {found[2]}\n")
    return tmp_path


def run(package: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_score_is_ten_lines():
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 10


def test_the_command_line_lists_it_with_its_source(package):
    listed = json.loads(run(package, "-m", "paretune", "methods", "scores", "--json"))
    assert "largest" in json.dumps(listed)
    assert "none, this is an example" in json.dumps(listed)


def test_recipes_take_it_and_it_passes_the_contract(package):
    program = (
        "from paretune.recipe import parse_recipe; from paretune.methods import find; "
        "from paretune.testing import check_score; "
        "parse_recipe({'steps': [{'prune.channels': {'score': 'largest', 'ratio': 0.5}}]}); "
        "check_score(find('scores', 'largest')); print('fine')"
    )
    assert run(package, "-c", program).strip() == "fine"
