"""The command line: one lazily imported file per command, each of which parses, calls one function, and prints.

Importing this package, and `paretune --help`, import click and nothing heavier.
"""

from __future__ import annotations

from paretune.cli._group import LazyGroup, commands

__all__ = ["app", "main"]

app = LazyGroup("paretune", commands())
"""The whole command line, as a click group."""


def main() -> None:
    """Run the command line and exit; a termination signal is treated like Ctrl-C."""
    from paretune.cli._exit import interrupt_on_termination

    interrupt_on_termination()
    app.main(prog_name="paretune")
