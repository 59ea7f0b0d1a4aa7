"""`paretune report`: the HTML report of a run folder, written again."""

from __future__ import annotations

from pathlib import Path

import click

from paretune.cli._screen import Screen, command


@command("report")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: FOLDER/report.html]")
def report(screen: Screen, folder: Path, out: Path | None) -> None:
    """Write the report of the run in FOLDER: one HTML file that opens offline."""
    from paretune.report import write_report

    path = write_report(folder, out)
    screen.show({"report": str(path), "bytes": path.stat().st_size}, str(path))
