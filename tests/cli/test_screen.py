"""One JSON document on stdout, and nothing else there; text without it."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from paretune.cli import app
from paretune.cli._screen import Choice, command, plain

NOISY = """
import os, subprocess, sys
from paretune.cli._screen import command

@command("noisy")
def noisy(screen):
    "Write to stdout in every way there is."
    print("a print of the task")
    os.write(1, b"a C library\\n")
    subprocess.run([sys.executable, "-c", "print('a child process')"], check=True)
    screen.show({"answer": 42}, "the answer is 42")
    print("a print after the result")

noisy.main(sys.argv[1:])
"""


def test_under_json_nothing_but_the_document_reaches_stdout():
    result = subprocess.run([sys.executable, "-c", NOISY, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"answer": 42}
    for line in ("a print of the task", "a C library", "a child process", "a print after the result"):
        assert line in result.stderr


def test_without_json_the_text_is_printed():
    result = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert "the answer is 42" in result.stdout and "a print of the task" in result.stdout


@pytest.mark.parametrize("family", [[], ["steps"], ["scores"]])
def test_methods_as_json_is_one_document(family):
    result = CliRunner().invoke(app, ["methods", *family, "--json"])
    assert result.exit_code == 0
    listed = json.loads(result.stdout)["methods"]
    assert all(set(method) == {"family", "name", "summary", "source", "defaults"} for method in listed)
    assert not family or {method["family"] for method in listed} <= set(family)


def test_methods_as_text_has_every_name_that_json_has():
    names = [m["name"] for m in json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)["methods"]]
    text = CliRunner().invoke(app, ["methods"]).stdout
    assert all(f"  {name}\n" in text for name in names)


@dataclass
class Point:
    x: float
    path: Path


def test_plain_values_are_json_whatever_they_were():
    value = {
        1: Point(math.nan, Path("a/b")),
        "array": np.arange(3),
        "f": np.float32(0.5),
        "t": (1, True, None),
        "k": len,
    }
    assert plain(value) == {
        "1": {"x": None, "path": "a/b"}, "array": [0, 1, 2], "f": 0.5, "t": [1, True, None], "k": "len",
    }  # fmt: skip
    json.dumps(plain(value), allow_nan=False)


def test_underscores_do_for_dashes():
    @command("x")
    @click.option("--weight-decay", type=float)
    def x(screen, weight_decay):
        screen.show({"weight_decay": weight_decay}, "")

    assert json.loads(CliRunner().invoke(x, ["--weight_decay", "2", "--json"]).stdout) == {"weight_decay": 2.0}


def test_a_wrong_choice_names_the_nearest():
    @command("x")
    @click.option("--scope", type=Choice(["global", "layer"]))
    def x(screen, scope):
        """Nothing."""

    assert "Did you mean 'global'?" in CliRunner().invoke(x, ["--scope", "globl"]).stderr
