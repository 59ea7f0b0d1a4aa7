"""`paretune demo`: the packaged recipe on bundled data, from training to the report."""

from __future__ import annotations

from pathlib import Path

from paretune.cli._flow import cache_option, free_folder, out_option, show_run
from paretune.cli._screen import Screen, command


@command("demo")
@out_option()
@cache_option()
def demo(screen: Screen, out: Path | None, cache: bool) -> int:
    """Train, prune, distil, quantize and measure a small network on handwritten digits.

    Everything is bundled: no download, under 3 minutes on 2 cores.
    """
    from importlib.resources import as_file, files

    from paretune import read_recipe, run

    with as_file(files("paretune.zoo") / "demo.yaml") as path:
        recipe = read_recipe(path)
    folder = out or free_folder("demo")
    return show_run(screen, folder, lambda emit: run(recipe, out=folder, cache=cache, emit=emit))
