"""The site builds without a warning, and every example in a docstring gives what it says."""

from __future__ import annotations

import doctest
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import paretune

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(paretune.__path__, "paretune.")
    if not module.name.endswith("__main__")
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_holds_what_the_code_says(site):
    assert "quantize.static" in (site / "methods.html").read_text()
    assert "paretune verify" in (site / "cli.html").read_text()
    assert "max_drop" in (site / "reference.html").read_text()
    for page in site.glob("*.html"):
        assert "&lt;!-- " not in page.read_text(), f"{page.name} has a mark that nothing replaced"


def test_the_picture_is_what_the_saved_demo_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import _picture

    assert (ROOT / "docs" / "demo.svg").read_text() == _picture.picture(json.loads(_picture.RESULT.read_text()))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} fail: see stdout"
