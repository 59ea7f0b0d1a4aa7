"""A hook of mkdocs: pages that are built from the code, so that they cannot say anything else.

A mark in a page, `<!-- methods -->`, `<!-- commands -->`, `<!-- steps -->`, `<!-- benchmarks -->` or
`<!-- decisions -->`, is replaced by what the registry, the command line, the steps and the saved results say.
"""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each mark by its generated text."""
    for mark, write in {
        "methods": methods,
        "commands": commands,
        "steps": steps,
        "benchmarks": benchmarks,
        "decisions": decisions,
    }.items():
        if f"<!-- {mark} -->" in markdown:
            markdown = markdown.replace(f"<!-- {mark} -->", write())
    return markdown


def methods() -> str:
    """Return every family with its methods, their sources and defaults."""
    from paretune.methods import FAMILIES, describe

    parts = []
    for family in FAMILIES:
        parts.append(f"\n## {family}\n")
        for method in describe(family):
            defaults = ", ".join(f"{key}={value!r}" for key, value in method.defaults.items())
            parts.append(f"### `{method.name}`\n\n{_plain(method.summary)}\n")
            parts.append(f"Source: {_plain(method.source)}\n" if method.source else "")
            parts.append(f"Defaults: `{defaults}`\n" if defaults else "")
    return "\n".join(parts)


def commands() -> str:
    """Return the help of every command, as the terminal shows it."""
    import click

    from paretune.cli import app

    context = click.Context(app, info_name="paretune", terminal_width=100, max_content_width=100)
    parts = [f"```\n{app.get_help(context)}\n```\n"]
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        parts.append(f"## paretune {name}\n\n```\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


def steps() -> str:
    """Return every step of a recipe with its fields, their defaults, and what they mean."""
    from paretune.methods import registry

    parts = []
    for name, step in registry("steps").items():
        parts.append(f"### `{name}`\n\n{_plain((step.__doc__ or '').strip().splitlines()[0])}\n")
        meaning = _field_docs(step)
        parts.append("| field | default | meaning |\n|---|---|---|")
        for field in dataclasses.fields(step):
            default = "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            text = _plain(meaning.get(field.name, "")).replace("|", "\\|").replace("\n", " ")
            parts.append(f"| `{field.name}` | {default} | {text} |")
        parts.append("")
    return "\n".join(parts)


def benchmarks() -> str:
    """Return the benchmark page of the repository, which is itself generated from the saved results."""
    path = ROOT / "benchmarks" / "README.md"
    text = path.read_text() if path.exists() else ""
    text = re.sub(r"^# .*\n", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)  # links into the repository lead nowhere here


def decisions() -> str:
    """Return one line for each page of decisions."""
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    titles = [(page.name, page.read_text().splitlines()[0].lstrip("# ")) for page in pages]
    return "\n".join(f"- [{title}]({name})" for name, title in titles) or "None is written yet."


def _field_docs(step: Any) -> dict[str, str]:
    """Return the string beneath each field, of the class and of those that it is made of."""
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for kind in reversed(step.__mro__):
        if not kind.__module__.startswith("paretune"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
        for node, following in pairwise(body):
            match node, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
