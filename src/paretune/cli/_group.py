"""The group of commands: names and one-line helps are written here; their code is imported when one is used."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from paretune.errors import nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class Entry:
    """One command, before it is imported."""

    name: str
    summary: str
    module: str
    """The module of this package that holds it, in an attribute of the command's name."""
    section: str


def commands() -> tuple[Entry, ...]:
    """Return every command in the order in which `paretune --help` shows them."""
    whole, one, look, own = "A whole flow", "One technique", "Look, measure, prove", "This installation"
    return (
        Entry("demo", "Optimize a small network on bundled data, in under 3 minutes.", "_demo", whole),
        Entry("optimize", "Find the smallest and fastest model that holds your constraints.", "_optimize", whole),
        Entry("run", "Run a recipe, or continue a run that was interrupted.", "_run", whole),
        Entry("check", "Check a recipe and predict what it gains, without training.", "_check", whole),
        Entry("train", "Train or fine-tune a model.", "_technique", one),
        Entry("prune", "Remove channels from a model.", "_technique", one),
        Entry("distill", "Train a model on the outputs of the baseline.", "_technique", one),
        Entry("quantize", "Store and compute a model in fewer bits.", "_technique", one),
        Entry("search", "Search for hyperparameters, of anything that returns a number.", "_search", one),
        Entry(
            "sensitivity",
            "Show which layers hurt when they lose channels, and what that saves.",
            "_sensitivity",
            look,
        ),
        Entry("measure", "Time an ONNX file, alone, against another, or under a load.", "_measure", look),
        Entry("verify", "Prove again, from the files, what the certificates of a run claim.", "_verify", look),
        Entry("report", "Write the HTML report of a run.", "_report", look),
        Entry("methods", "List every method with its source and defaults.", "_methods", look),
        Entry("doctor", "Show versions, CPU, engines, and how small a difference shows here.", "_doctor", own),
        Entry("completion", "Print the completion script of a shell.", "_completion", own),
    )


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are used, and whose errors follow our exit codes."""

    def __init__(self, name: str, entries: Iterable[Entry]) -> None:
        super().__init__(
            name,
            help="Make trained PyTorch models small and fast, and prove it on the runtime you ship.",
            epilog="A task is named path/to/file.py:make_task or package.module:make_task. "
            "`paretune COMMAND --help` shows a command's options.",
            context_settings={"help_option_names": ["-h", "--help"]},
            params=[
                click.Option(
                    ["--version"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_version,
                    help="Show the version and exit.",
                )
            ],
        )
        self.entries = {entry.name: entry for entry in entries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(f"paretune.cli.{entry.module}"), entry.name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is an error that names the nearest."""
        name = args[0]
        if name not in self.entries and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command '{name}'.{nearest(name, self.entries)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing them."""
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            with formatter.section(section):
                formatter.write_dl([(e.name, e.summary) for e in self.entries.values() if e.section == section])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing the commands."""
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(e.name, help=e.summary) for e in self.entries.values() if e.name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; in standalone mode, print whatever goes wrong and exit with its code."""
        from paretune.cli._exit import guarded

        args = (sys.argv[1:] if args is None else list(args)) or ["--help"]

        def run() -> Any:
            return super(LazyGroup, self).main(args, prog_name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return run()
        sys.exit(guarded(run, args))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from paretune import __version__

        click.echo(f"paretune {__version__}")
        ctx.exit()
