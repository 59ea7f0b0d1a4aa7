"""`paretune sensitivity`: which layers hurt when they lose channels, and what that would save."""

from __future__ import annotations

from pathlib import Path

import click

from paretune.cli._screen import Screen, command


@command("sensitivity")
@click.argument("task")
@click.option(
    "--ratio",
    "ratios",
    type=float,
    multiple=True,
    help="Fraction of a group's channels to remove; may be given several times. [default: eighths]",
)
@click.option("--score", help="How channels are ranked, one of `paretune methods scores`.")
@click.option("--samples", type=int, default=1000, show_default=True, help="Validation samples to evaluate on.")
@click.option(
    "--repair", type=int, default=0, show_default=True, help="Training samples for a repair after each cut."
)
@click.option("--protect", multiple=True, help="Layers, by name or glob, that are left out.")
@click.option("--structures", multiple=True, help="Groups to look at: channels, heads, neurons, ...; else all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes which samples scores are taken of.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with drawings as well."
)
def sensitivity(
    screen: Screen,
    task: str,
    ratios: tuple[float, ...],
    score: str | None,
    samples: int,
    repair: int,
    protect: tuple[str, ...],
    structures: tuple[str, ...],
    seed: int,
    device: str,
    html: Path | None,
) -> None:
    """Cut every group of layers of TASK's model alone, at several ratios, and evaluate on its validation data.

    TASK is path/to/file.py:make_task or package.module:make_task. Nothing is trained. Shown are the metric with
    its interval, the drop, and the multiply-accumulates and parameters that the cut alone would save.
    """
    from paretune import prune
    from paretune.files import write_text
    from paretune.prune._sensitivity import RATIOS
    from paretune.recipe import Context
    from paretune.report import sensitivity_page, sensitivity_text
    from paretune.task import load_task

    loaded = load_task(task)
    with screen.progress() as progress:
        found = prune.sensitivity(
            loaded.build().eval(), loaded, ratios=ratios or RATIOS, score=score, samples=samples, repair=repair,
            protect=protect, structures=structures, context=Context(seed=seed, device=device, emit=progress),
        ).to_json()  # fmt: skip
    if html is not None:
        write_text(html, sensitivity_page(found, loaded.name))
        screen.say(f"wrote {html}")
    screen.show({"task": task, **found}, lambda: sensitivity_text(found))
