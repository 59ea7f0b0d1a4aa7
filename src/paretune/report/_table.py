"""The table for a terminal: two lines a candidate, 80 columns, readable without colour.

Every number has its interval beneath it or its ratio to the baseline. Colour only repeats what a word says, so
that `NO_COLOR` and a log file lose nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paretune.report._format import narrow
from paretune.report._rows import Row, decision_of, headline, rows

STYLES = {"faster": "green", "slower": "red", "too noisy": "yellow", "within": "green", "not within": "red",
          "cannot tell": "yellow"}  # fmt: skip
WIDTH = 80
PLAIN = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
"""A rule beneath the header and nothing else, in ASCII."""
CAPTION = "beneath: 95 % interval, or ratio to the baseline"


def table(summary: Mapping[str, Any]) -> Table:
    """Return the candidates as a table: accuracy, latency, bytes, MACs, parameters, and the decision on the drop.

    It fits in 80 columns: each cell has a number and, beneath it, its 95 % interval or its ratio to the baseline.
    """
    made = Table(
        box=PLAIN,
        show_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"{CAPTION}; n = {summary['candidates'][0]['metric']['n']}",
        caption_justify="left",
    )
    made.add_column("", overflow="fold", max_width=16)
    for title in (*_titles(summary), "bytes", "MACs", "params"):
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column(_drop_title(summary), justify="right", no_wrap=True)
    for row in rows(summary):
        made.add_row(*_cells(row))
    return made


def text(summary: Mapping[str, Any], constraints: Mapping[str, Any] | None = None) -> str:
    """Return the headline and the table as plain ASCII text of at most 80 columns."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, no_color=True, force_terminal=False, highlight=False, emoji=False)
    console.print(headline(summary, constraints), markup=False)
    console.print()
    console.print(table(summary))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _titles(summary: Mapping[str, Any]) -> tuple[str, str]:
    return str(summary["candidates"][0]["metric"]["name"])[:14], "latency"


def _drop_title(summary: Mapping[str, Any]) -> str:
    units = [decision_of(candidate).get("unit") for candidate in summary["candidates"]]
    unit = next((unit for unit in units if unit), "")
    return f"drop, {unit}" if unit else "drop"


def _cells(row: Row) -> list[Text]:
    name = Text(row.name, style="bold" if row.role == "best" else "")
    if row.role == "best":
        name.append("\n* best")
    return [
        name,
        _cell(row.value, narrow(row.interval)),
        _cell(f"{row.ratio} {row.verdict}".rstrip(), narrow(row.ratio_interval) or row.latency, row.verdict),
        _cell(row.bytes, row.bytes_ratio),
        _cell(row.macs, row.macs_ratio),
        _cell(row.params, row.params_ratio),
        _cell(row.drop.split(" ")[0], row.decision, row.decision),
    ]


def _cell(above: str, below: str, verdict: str = "") -> Text:
    made = Text(above)
    made.append(f"\n{below}", style="" if verdict else "dim")
    style = STYLES.get(verdict)
    if style:
        made.highlight_words([verdict], style)
    return made
