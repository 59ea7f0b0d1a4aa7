"""`paretune verify`: the certificates of a folder, proved again from the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._exit import UNVERIFIED
from paretune.cli._screen import Screen, command

if TYPE_CHECKING:
    from paretune.export import Verification


@command("verify")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--task", help="Where to measure the metric again. [default: the task of the folder's recipe]")
def verify(screen: Screen, folder: Path, task: str | None) -> int:
    """Prove again what the certificates in FOLDER claim: digests, outputs in a fresh process, the metric.

    FOLDER is a run's folder, or one that a candidate was saved to. Exit code 4: something does not hold.
    """
    from paretune.export import verify_folder
    from paretune.task import load_task

    found = verify_folder(folder, load_task(task) if task else None)
    ok = all(each.ok for each in found)
    screen.show({"folder": str(folder), "ok": ok, "artifacts": found}, lambda: _text(found))
    return 0 if ok else UNVERIFIED


def _text(found: Sequence[Verification]) -> str:
    lines = [line for each in found for line in _one(each)]
    failed = sum(not each.ok for each in found)
    verdict = f"{failed} of {len(found)} do not hold" if failed else f"all {len(found)} hold"
    notes = dict.fromkeys(note for each in found for note in each.notes)
    return "\n".join([*lines, *(f"note: {note}" for note in notes), verdict])


def _one(each: Verification) -> list[str]:
    batches = ", ".join(f"batch {check.batch}: {check.error:.2g}" for check in each.batches)
    metric = f"{each.metric['name']} {each.metric['value']:.4g} on {_samples(each.metric)}" if each.metric else ""
    facts = "; ".join(part for part in (f"error at {batches}" if batches else "", metric) if part)
    lines = [f"{'ok    ' if each.ok else 'FAILED'}  {each.artifact.name}" + (f"  ({facts})" if facts else "")]
    return lines + [f"        {reason}" for reason in each.reasons]


def _samples(metric: Mapping[str, Any]) -> str:
    """Say how many samples of which data: the chosen candidate was measured on test data, most others were not."""
    split = {"val": "validation ", "test": "test "}.get(metric.get("split", ""), "")
    return f"{metric['n']} {split}samples"
