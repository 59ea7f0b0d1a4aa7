"""`paretune optimize`: the smallest, fastest model of a task that holds the constraints."""

from __future__ import annotations

from pathlib import Path

import click

from paretune.cli._flow import cache_option, free_folder, out_option, show_run
from paretune.cli._screen import Screen, command


@command("optimize")
@click.argument("task")
@click.option(
    "--max-drop",
    type=float,
    help="The most the metric may lose: points where it is a fraction of samples, else percent of the baseline's.",
)
@click.option("--max-latency", help="A fraction of the baseline's (0.5x), or a time (3ms).")
@click.option("--max-size", help="A fraction of the baseline's bytes (0.25x), or an amount (300KB).")
@click.option(
    "--max-flips", type=float, help="The most samples, in percent, that may be right before and wrong now."
)
@click.option("--max-class-drop", type=float, help="The most points that the worst class may lose.")
@click.option("--budget", default="20min", show_default=True, help="How long to search: 90s, 20min, 1.5h.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime when measured.")
@click.option("--batch", type=int, default=1, show_default=True, help="Batch of the runtime when measured.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides everything that is random.")
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu, cuda or mps.")
@out_option()
@cache_option()
def optimize(
    screen: Screen,
    task: str,
    max_drop: float | None,
    max_latency: str | None,
    max_size: str | None,
    max_flips: float | None,
    max_class_drop: float | None,
    budget: str,
    threads: int,
    batch: int,
    seed: int,
    device: str,
    out: Path | None,
    cache: bool,
) -> int:
    """Find a smaller, faster model of TASK that holds the constraints.

    TASK is path/to/file.py:make_task or package.module:make_task. Exit code 3: nothing holds the constraints; the
    best that was reached is shown.
    """
    from paretune import Constraints, Target
    from paretune import optimize as search
    from paretune.summary import seconds
    from paretune.task import load_task

    bounds = {
        "max_drop": max_drop,
        "max_latency": max_latency,
        "max_size": max_size,
        "max_flips": max_flips,
        "max_class_drop": max_class_drop,
    }
    # Mistakes are told before the task is imported.
    Constraints(**bounds)  # type: ignore[arg-type]
    seconds(budget)
    target = Target(threads=threads, batch=batch)
    folder = out or free_folder("optimize")
    return show_run(
        screen,
        folder,
        lambda emit: search(
            load_task(task),
            **bounds,  # type: ignore[arg-type]
            budget=budget,
            out=folder,
            target=target,
            seed=seed,
            device=device,
            cache=cache,
            emit=emit,
        ),
    )
