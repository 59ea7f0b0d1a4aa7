"""`paretune check`: what a recipe would do, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from paretune.cli._exit import INFEASIBLE
from paretune.cli._screen import Screen, command


@command("check")
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STEP.FIELD=VALUE",
    help="Override a value of the recipe, as `paretune run` does. May be given several times.",
)
def check(screen: Screen, recipe: Path, overrides: tuple[str, ...]) -> int:
    """Check RECIPE without training: its fields, its task, its cuts, and the most that each step can gain.

    Each layer's output is shown now and after the recipe, with how many of its channels can be removed, or why
    none can; each group of layers that are cut together, with what of the model hangs on it. Exit code 3: a step
    cannot do what it is asked to.
    """
    from paretune import read_recipe
    from paretune.inspection import check as inspect

    found = inspect(read_recipe(recipe, overrides))
    screen.show(found, lambda: _text(found))
    return 0 if found["ok"] else INFEASIBLE


def _text(found: Mapping[str, Any]) -> str:
    start = found["model"]
    lines = [f"{found['task']}: {_costs(start, start)}", "", *_layers(found["layers"]), ""]
    if found["groups"]:
        lines += [*_groups(found["groups"], start), ""]
    for number, step in enumerate(found["steps"], start=1):
        lines.append(f"step {number}, {step['step']}: {_costs(step['after'], start)}")
        lines.append(f"    gains {step['gains']}")
        if step["ceiling"] != step["after"]:
            lines.append(f"    at most, down to {_costs(step['ceiling'], start)}")
        lines += [f"    note: {note}" for note in step["notes"]]
        lines += [f"    cannot be done: {step['problem']}"] if step["problem"] else []
    return "\n".join(lines)


def _layers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [("layer", "type", "output", "after", "can be pruned")]
    cells += [(row["layer"], row["type"], _shape(row["shape"]), _after(row), _verdict(row)) for row in rows]
    return _table(cells)


def _groups(rows: Sequence[Mapping[str, Any]], start: Mapping[str, int]) -> list[str]:
    """Return what is cut together, with the most that can go with it of the whole model."""
    cells = [("group", "what", "can go", "MACs with it", "parameters with it")]
    cells += [
        (
            row["group"],
            row["structure"],
            f"{row['prunable']} of {row['width']}",
            *(f"{100 * row[key] / max(1, start[key]):.1f} %" for key in ("macs", "params")),
        )
        for row in rows
    ]
    return _table(cells)


def _table(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in cells
    ]


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["makes_channels"]:
        return ""
    if row["prunable"]:
        return f"{row['prunable']} channels"
    return f"no: {row['reason']}" + (f" ({row['remedy']})" if row["remedy"] else "")


def _after(row: Mapping[str, Any]) -> str:
    return "gone" if row["shape"] is not None and row["after"] is None else _shape(row["after"])


def _shape(shape: Sequence[int] | None) -> str:
    return "unknown" if shape is None else "x".join(map(str, shape))


def _costs(costs: Mapping[str, int], start: Mapping[str, int]) -> str:
    named = (("macs", "MACs"), ("params", "parameters"), ("weight_bytes", "bytes of weights"))
    parts = [
        f"{costs[key]:,} {name}" + (f" ({costs[key] / max(1, start[key]):.2f}x)" if costs is not start else "")
        for key, name in named
    ]
    return ", ".join(parts)
