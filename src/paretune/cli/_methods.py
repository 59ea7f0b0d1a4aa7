"""`paretune methods`: every method, with what it is, where it comes from, and its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from paretune.cli._screen import Screen, command

if TYPE_CHECKING:
    from paretune.methods import Method


@command("methods")
@click.argument("family", required=False)
def methods(screen: Screen, family: str | None) -> None:
    """List every method, or those of one FAMILY (steps, scores, losses, ...).

    A recipe and the options of `prune`, `distill`, `quantize` and `train` use the same names.
    """
    from paretune.methods import FAMILIES, describe

    listed = [method for name in ([family] if family else FAMILIES) for method in describe(name)]
    screen.show({"methods": listed}, lambda: _text(listed))


def _text(listed: Sequence[Method]) -> str:
    lines: list[str] = []
    for family in dict.fromkeys(method.family for method in listed):
        lines += ["", family] if lines else [family]
        for method in (m for m in listed if m.family == family):
            lines += _paragraph(method)
    return "\n".join(lines) if lines else "no methods"


def _paragraph(method: Method) -> list[str]:
    defaults = ", ".join(f"{name}={value!r}" for name, value in method.defaults.items())
    lines = [f"  {method.name}", f"      {method.summary}"]
    lines += [f"      source: {method.source}"] if method.source else []
    return lines + ([f"      defaults: {defaults}"] if defaults else [])
