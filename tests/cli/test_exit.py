"""Exit codes and messages: what each kind of error means to the user and to a script."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from paretune import errors
from paretune.cli import app
from paretune.cli._exit import Interrupted, describe, guarded


class OutOfMemoryError(RuntimeError):
    """Named like PyTorch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), 2),
        (errors.RecipeError("x"), 2),
        (errors.DataError("x"), 2),
        (click.UsageError("x"), 2),
        (errors.InfeasibleError("x"), 3),
        (errors.VerificationError("x"), 4),
        (errors.RunError("x"), 5),
        (MemoryError(), 5),
        (OutOfMemoryError("CUDA out of memory"), 5),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 5),
        (OSError(errno.ENOENT, "No such file"), 1),
        (KeyError("bug"), 1),
        (Interrupted(), 130),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert describe(error).exit_code == code


def fails(error):
    def run():
        raise error

    return run


def test_a_mistake_of_the_user_is_one_message_without_a_traceback(capsys):
    assert guarded(fails(errors.InputError("no file a.py")), ["run"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: no file a.py\n")


def test_a_mistake_of_ours_says_how_to_see_the_traceback(capsys):
    assert guarded(fails(KeyError("bug")), ["run"]) == 1
    assert capsys.readouterr().err == "error: internal error: KeyError: 'bug'; run again with --debug\n"


def test_debug_shows_the_traceback(capsys):
    guarded(fails(errors.InputError("no file a.py")), ["run", "--debug"])
    err = capsys.readouterr().err
    assert "Traceback" in err and "error: no file a.py" in err


def test_json_makes_the_error_a_document(capsys):
    assert guarded(fails(errors.RunError("the disk is full")), ["run", "--json"]) == 5
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"type": "RunError", "message": "the disk is full", "exit_code": 5}}
    assert err == ""


def test_after_a_double_dash_json_is_no_option(capsys):
    guarded(fails(errors.InputError("x")), ["run", "--", "--json"])
    assert capsys.readouterr().out == ""


def test_an_interruption_prints_the_command_that_goes_on(capsys):
    assert guarded(fails(Interrupted("paretune run --resume runs/a")), ["run"]) == 130
    assert capsys.readouterr().err == "stopped: interrupted; continue with\n  paretune run --resume runs/a\n"
    assert guarded(fails(Interrupted("paretune run --resume runs/a")), ["run", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["resume"] == "paretune run --resume runs/a"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["methds"], "no command 'methds'. Did you mean 'methods'?"),
        (["methods", "--jsn"], "Did you mean '--json'?"),
        (["completion", "zhs"], "Did you mean 'zsh'?"),
        (["methods", "score"], "no family 'score' of methods. Did you mean 'scores'?"),
        (["run"], "give a RECIPE, or --resume FOLDER"),
        (["run", "none.yaml", "--resume", "a"], "leave out recipe"),
    ],
)
def test_typing_mistakes_exit_with_2_and_name_what_is_near(args, message):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_typing_mistakes_under_json_are_documents():
    result = CliRunner().invoke(app, ["methods", "--jsn", "--json"])
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


def test_standard_streams_without_colour_under_no_color():
    result = subprocess.run(
        [sys.executable, "-m", "paretune", "methds"],
        capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "\x1b" not in result.stderr + result.stdout


WAITS = """
import sys, time
from paretune.cli import _methods, main
def wait(family):
    print("ready", flush=True)
    time.sleep(60)
import paretune.methods
paretune.methods.describe = wait
sys.argv = ["paretune", "methods", "steps"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_130(number):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted" in err
