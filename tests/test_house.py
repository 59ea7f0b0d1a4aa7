"""The house rules, as tests: style, types, import order, light imports, few dependencies, public names, the wheel.

`python tests/test_house.py` writes `tests/public_api.txt` anew; a line more or less there is a decision.
"""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest

import paretune

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "paretune"
PUBLIC = Path(__file__).with_name("public_api.txt")
HEAVY = ("torch", "onnxruntime", "onnx", "onnxscript", "sklearn", "optuna", "ray", "jinja2")
IMPORTED_AS = {"pyyaml": "yaml"}
COMES_WITH = {"markupsafe": "jinja2", "sqlalchemy": "optuna"}  # its own string type; its own errors


def execute(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command of this environment and return its output; what it prints is the failure's message."""
    import os

    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ruff", "check"),
        ("-m", "ruff", "format", "--check"),
        ("-m", "mypy"),
        ("-c", "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"),
    ],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_style_types_and_import_order(command):
    execute(*command)


@pytest.mark.parametrize("module", ["paretune", "paretune.cli", "paretune.task", "paretune.recipe"])
def test_importing_is_light(module):
    program = f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert json.loads(execute("-c", program)) == []


def dependencies() -> list[str]:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower() for line in lines]


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def test_dependencies_are_few_and_each_is_used():
    wanted = {IMPORTED_AS.get(name, name) for name in dependencies()}
    assert len(wanted) <= 13
    used = {name for path in SOURCE.rglob("*.py") for name in imports_of(path)}
    # torch.onnx.export imports onnxscript itself; it is a dependency all the same
    assert wanted - {"onnxscript"} <= used, f"declared and never imported: {sorted(wanted - used)}"
    carried = {name for name, carrier in COMES_WITH.items() if carrier in wanted}
    foreign = used - wanted - carried - set(sys.stdlib_module_names) - {"paretune", "PIL"}
    assert not foreign, f"imported and not declared: {sorted(foreign)}"


def test_no_module_takes_a_private_name_of_another():
    taken = [
        f"{path.relative_to(SOURCE)}: {node.module}.{alias.name}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paretune")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not taken, f"give it a public name where it lives: {taken}"


def test_one_version_everywhere():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert citation[1] == paretune.__version__ == metadata("paretune")["Version"]


def public_names() -> list[str]:
    """Return every name in the `__all__` of a module whose path has no underscore, and every command."""
    names = [f"paretune.{name}" for name in paretune.__all__]
    for module in pkgutil.walk_packages(paretune.__path__, "paretune."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        names += [f"{module.name}.{name}" for name in getattr(import_module(module.name), "__all__", ())]
    return sorted(set(names))


def test_public_names_are_those_decided():
    listed, found = PUBLIC.read_text().splitlines(), public_names()
    assert found == listed, (
        f"new: {sorted(set(found) - set(listed))}; gone: {sorted(set(listed) - set(found))}. "
        "Where that is meant: python tests/test_house.py"
    )


def test_every_public_name_exists_and_says_what_it_is():
    for name in public_names():
        module, _, attribute = name.rpartition(".")
        thing = getattr(import_module(module), attribute)
        if callable(thing):
            assert thing.__doc__, f"{name} has no docstring"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    execute("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), ".")
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("paretune/")}
    tracked = {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == tracked
    assert "paretune/py.typed" in packed


def test_the_wheel_works_outside_the_tree(wheel, tmp_path):
    site = tmp_path / "site"
    execute("-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site), str(wheel))
    program = (
        "import paretune, paretune.zoo as zoo; from paretune.methods import FAMILIES, registry; "
        "[registry(family) for family in FAMILIES]; zoo.make_demo_task().check(); print(paretune.__file__)"
    )
    where = execute("-c", program, cwd=tmp_path, PYTHONPATH=str(site)).strip()
    assert Path(where).is_relative_to(site)
    assert "demo" in execute("-m", "paretune", "--help", cwd=tmp_path, PYTHONPATH=str(site))


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


if __name__ == "__main__":
    PUBLIC.write_text("\n".join(public_names()) + "\n")
