"""`paretune run`: a recipe from its first step to its report, or what is left of an interrupted run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from paretune.cli._flow import cache_option, free_folder, out_option, show_run
from paretune.cli._screen import Screen, command
from paretune.errors import InputError


@command("run")
@click.argument("recipe", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STEP.FIELD=VALUE",
    help="Override a value of the recipe: distill.epochs=2, or 2.epochs=2 for the second step, "
    "constraints.max_drop=1, target.threads=4, seed=1. May be given several times.",
)
@out_option()
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False),
    help="Go on with the run in this folder, from its last finished step or epoch.",
)
@cache_option()
@click.option("--device", help="Where to train: cpu, cuda or mps. [default: what the recipe says]")
def run(
    screen: Screen,
    recipe: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    cache: bool,
    device: str | None,
) -> int:
    """Run RECIPE: its steps in order, each artifact exported, verified and measured.

    The run's folder holds the artifacts with their certificates, summary.json and report.html.
    """
    if resume is not None:
        _refuse_beside_resume(recipe=recipe, set=overrides, out=out, device=device)
        return _resume(screen, resume, cache)
    if recipe is None:
        raise click.UsageError(
            "give a RECIPE, or --resume FOLDER to go on with a run", click.get_current_context()
        )
    from paretune import run as run_recipe
    from paretune.recipe import read_recipe

    steps = read_recipe(recipe, [*overrides, *([f"device={device}"] if device else [])])
    folder = out or free_folder(recipe.stem)
    return show_run(screen, folder, lambda emit: run_recipe(steps, out=folder, cache=cache, emit=emit))


def _resume(screen: Screen, folder: Path, cache: bool) -> int:
    """Go on with what `run` or one technique began, or, where the folder says so, with a search by `optimize`."""
    from paretune import run as run_recipe
    from paretune.recipe import read_recipe

    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder} holds no run to resume: it has no recipe.yaml")
    if (folder / "optimize.json").is_file():
        return _resume_search(screen, folder, cache)
    steps = read_recipe(folder / "recipe.yaml")
    return show_run(
        screen, folder, lambda emit: run_recipe(steps, out=folder, resume=True, cache=cache, emit=emit)
    )


def _resume_search(screen: Screen, folder: Path, cache: bool) -> int:
    from paretune import optimize
    from paretune.ladder import Settings
    from paretune.recipe import read_recipe
    from paretune.task import load_task

    frame = read_recipe(folder / "recipe.yaml")
    if frame.task is None:
        raise InputError(
            f"{folder} was begun in Python with a task of its own: call paretune.optimize(resume=True)"
        )
    task = load_task(frame.task)
    asked = Settings.from_json((folder / "optimize.json").read_text())
    return show_run(
        screen,
        folder,
        lambda emit: optimize(
            task,
            **dataclasses.asdict(asked.constraints),
            budget=asked.seconds,
            out=folder,
            target=frame.target,
            seed=frame.seed,
            device=frame.device,
            resume=True,
            cache=cache,
            emit=emit,
        ),
    )


def _refuse_beside_resume(**given: object) -> None:
    beside = [name if name == "recipe" else f"--{name}" for name, value in given.items() if value]
    if beside:
        raise click.UsageError(
            f"--resume goes on with a run as it was begun: leave out {', '.join(beside)}",
            click.get_current_context(),
        )
