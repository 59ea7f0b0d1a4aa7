"""The group: what `paretune` and its help cost, and the list of every command and option."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from paretune import __version__
from paretune.cli import app

LISTED = Path(__file__).with_name("options.txt")
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "rich", "pydantic", "yaml", "jinja2")
TECHNIQUES = ("train", "prune", "distill", "quantize")
SEARCH = tuple(
    f"search {name}" for name in ("run", "resume", "status", "best", "export", "check", "replay", "report")
)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["methds"], ["completion", "bash"], ["run", "--help"]]
)
def test_the_frame_imports_nothing_heavy(args):
    code = f"""
import sys
from paretune.cli import app
try:
    app.main({args!r})
except SystemExit:
    pass
print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run_python(code).splitlines()[-1] == "loaded: []"


def test_importing_paretune_imports_nothing_heavy():
    assert run_python(f"import sys, paretune; print([n for n in {HEAVY!r} if n in sys.modules])").strip() == "[]"


def test_the_help_lists_every_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for entry in app.entries.values():
        assert f"  {entry.name} " in result.stdout


def test_without_arguments_the_help_is_shown():
    assert CliRunner().invoke(app, []).stdout == CliRunner().invoke(app, ["--help"]).stdout


def test_the_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"paretune {__version__}\n"


@pytest.mark.parametrize("name", [*(name for name in app.entries if name != "search"), *SEARCH])
def test_every_command_has_help_with_the_shared_options(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0, result.output
    for option in ("--json", "--quiet", "--debug", "--help"):
        assert option in result.stdout


def command_lines():
    """Yield every command with its arguments and options, the techniques once per step."""
    context = click.Context(app, info_name="paretune")
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        if isinstance(command, click.Group):
            for each in command.commands.values():
                options = [param for param in each.params if isinstance(param, click.Option)]
                yield " ".join([name, each.name, *("/".join(option.opts) for option in options)])
            continue
        steps = list(command._steps()) if name in TECHNIQUES else [None]
        for step in steps:
            args = [] if step is None else ["--step", step]
            made = command.make_context(name, args, parent=context, resilient_parsing=True)
            words = [
                param.human_readable_name
                if isinstance(param, click.Argument)
                else "/".join(param.opts + param.secondary_opts)
                for param in command.get_params(made)
            ]
            yield " ".join([name, *([f"({step})"] if step and len(steps) > 1 else []), *words])


def test_adding_an_option_is_a_decision():
    """Where the new list is meant, run `python tests/cli/test_group.py` to write it down."""
    assert list(command_lines()) == LISTED.read_text().splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_each_shell(shell):
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert f"_PARETUNE_COMPLETE={shell}_complete" in result.stdout


def completed(words):
    """Return what bash would offer after these words."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class("bash")
    completer = kind(app, {}, "paretune", "_PARETUNE_COMPLETE")
    return [item.value for item in completer.get_completions(words[:-1], words[-1])]


def test_commands_options_and_values_complete():
    assert completed(["me"]) == ["measure", "methods"]
    assert "--json" in completed(["methods", "--j"])
    assert completed(["completion", "z"]) == ["zsh"]


if __name__ == "__main__":
    LISTED.write_text("\n".join(command_lines()) + "\n")
