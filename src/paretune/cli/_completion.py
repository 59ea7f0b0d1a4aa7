"""`paretune completion`: the script that makes a shell complete commands, options and their values."""

from __future__ import annotations

import click

from paretune.cli._screen import Choice, Screen, command

INSTALL = {
    "bash": 'eval "$(paretune completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(paretune completion zsh)"   # in ~/.zshrc',
    "fish": "paretune completion fish | source   # in ~/.config/fish/config.fish",
}


@command(
    "completion",
    epilog="\b\nTo install it:\n" + "\n".join(f"  {line}" for line in INSTALL.values()),
)
@click.argument("shell", type=Choice(list(INSTALL)))
def completion(screen: Screen, shell: str) -> None:
    """Print the completion script of SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from paretune.cli import app

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(app, {}, "paretune", "_PARETUNE_COMPLETE").source()
    screen.show({"shell": shell, "script": script}, script)
