"""`paretune search replay` and `report`: what can be said of a stored study afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from paretune.cli._exit import UNVERIFIED
from paretune.cli._screen import Screen, command

if TYPE_CHECKING:
    from paretune.search import Replay
    from paretune.search._study.file import StudyFile
    from paretune.search._study.storage import Store

STUDY = click.argument("study", type=click.Path(path_type=Path, dir_okay=False))
SHOWN = 10
"""Differences that are printed; `--json` has all."""


def opened(path: Path) -> tuple[StudyFile, Store]:
    """Return what a study's file says, and its storage; one that was not begun yet is an InputError."""
    from paretune.search._study.file import read_study
    from paretune.search._study.storage import Store
    from paretune.search._study.study import plan_to_json

    asked = read_study(path)
    plan = plan_to_json(asked.space, asked.sampler, asked.seed)
    return asked, Store(asked.storage, asked.name, plan, resume=True)


@command("replay")
@STUDY
def replay(screen: Screen, study: Path) -> int:
    """Make every suggestion of STUDY again from what is stored, and compare. Nothing is run or changed.

    Exit code 0 where all come out as they are stored, bit for bit, else 4.
    """
    from paretune.search import replay as again
    from paretune.search._study.file import read_study

    asked = read_study(study)
    found = again(asked.storage, name=asked.name, method=asked.sampler)
    document = {"suggestions": found.suggestions, "same": found.same, "differences": found.differences}
    screen.show(document, lambda: _told(found))
    return 0 if found.same else UNVERIFIED


@command("report")
@STUDY
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: STUDY's name .html beside it]"
)
def report(screen: Screen, study: Path, out: Path | None) -> None:
    """Write the page of STUDY: how it went, and what was found; one HTML file that opens offline.

    --json prints what the page draws.
    """
    from paretune.files import write_text
    from paretune.report import study_page
    from paretune.search._look.story import story

    asked, store = opened(study)
    told = story(asked.space, store.read(), asked.sampler.budgets, name=asked.name, method=asked.sampler.name)
    path = study.with_suffix(".html") if out is None else out
    write_text(path, study_page(told))
    screen.show({"report": path, "bytes": path.stat().st_size, **told}, str(path))


def _told(found: Replay) -> str:
    if found.same:
        return f"all {found.suggestions} suggestions came out again, bit for bit"
    lines = [f"{len(found.differences)} differences in {found.suggestions} suggestions"]
    for each in found.differences[:SHOWN]:
        lines += [f"configuration {each.number} (run {each.run}): {each.why}", f"  stored    {each.stored!r}"]
        lines += [] if each.replayed is None else [f"  replayed  {each.replayed!r}"]
    left = len(found.differences) - SHOWN
    return "\n".join([*lines, *([f"and {left} more; --json lists them"] if left > 0 else [])])
