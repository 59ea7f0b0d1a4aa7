"""`paretune train`, `prune`, `distill`, `quantize`: one technique as a recipe of one step.

Their options are the fields of the step, so that a command line and a recipe say the same thing in the same
words. A family with several steps takes one of them by `--step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._flow import cache_option, free_folder, out_option, show_run
from paretune.cli._screen import Choice, Command, screen, shared_options
from paretune.errors import RecipeError, nearest

if TYPE_CHECKING:
    from paretune.recipe import Recipe, Step


class Technique(Command):
    """A command whose options depend on `--step`; the family is imported when they are needed."""

    def __init__(self, family: str, default: str | None = None) -> None:
        super().__init__(family, callback=self._run, params=_own_params())
        self.family, self.default = family, default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the step that `--step` names before the options are read: they are its fields."""
        ctx.meta[__name__] = self._step(_values_of("--step", args), ctx)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the step's options, then those of every technique, then those of every command."""
        from paretune.cli._step_options import step_options

        step = ctx.meta.get(__name__) or self._step((), ctx)
        steps = self._steps()
        own = [param for param in self.params if param.name != "step" or len(steps) > 1]
        for param in own:
            if param.name == "step":
                param.type = Choice(list(steps))
                param.help = f"Which step of the family. [default: {self.default or next(iter(steps))}]"
        taken = {str(param.name) for param in own} | {"help"}
        arguments = [param for param in own if isinstance(param, click.Argument)]
        rest = [param for param in own if not isinstance(param, click.Argument)]
        return [*arguments, *step_options(step, taken), *rest, *shared_options(), *self._help(ctx)]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring of the step that `--step` names."""
        import inspect

        step = ctx.meta.get(__name__) or self._step((), ctx)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(inspect.getdoc(step) or "")
            formatter.write_paragraph()
            formatter.write_text(
                f"TASK is path/to/file.py:make_task or package.module:make_task. "
                f"This is the recipe `steps: [{step.name}]`; its options are the fields of that step."
            )

    def _help(self, ctx: click.Context) -> list[click.Parameter]:
        option = self.get_help_option(ctx)
        return [] if option is None else [option]

    def _steps(self) -> dict[str, type[Step]]:
        """Return the family's steps by the last part of their name."""
        from paretune.methods import registry

        mine = {name: step for name, step in registry("steps").items() if name.split(".")[0] == self.family}
        return {name.rpartition(".")[2]: step for name, step in mine.items()}

    def _step(self, typed: Sequence[str], ctx: click.Context) -> type[Step]:
        steps = self._steps()
        assert steps, f"no step of {self.family} is registered"
        if not typed:
            return steps[self.default] if self.default else next(iter(steps.values()))
        if len(typed) > 1:
            raise click.UsageError(f"--step: one step, not {' and '.join(typed)}; a recipe runs several", ctx)
        name = typed[0].rpartition(".")[2]
        if name not in steps:
            has = f"no step '{typed[0]}' in {self.family}, which has {', '.join(steps)}"
            raise click.UsageError(f"--step: {has}.{nearest(name, steps)}", ctx)
        return steps[name]

    def _run(self, *, json: bool, quiet: bool, debug: bool, **options: Any) -> int:
        from paretune import run

        step = click.get_current_context().meta[__name__]
        with screen(json=json, quiet=quiet) as shown:
            recipe = self._recipe(step, options)
            folder = options["out"] or free_folder(self.family)
            return show_run(shown, folder, lambda emit: run(recipe, out=folder, cache=options["cache"], emit=emit))

    def _recipe(self, step: type[Step], options: dict[str, Any]) -> Recipe:
        """Return the recipe of one step; what is wrong with the options is told in the command's words."""
        from paretune.cli._step_options import given_fields
        from paretune.recipe import parse_recipe

        content = {
            "task": options["task"],
            "steps": [{step.name: given_fields(step, options)}],
            "target": {"threads": options["threads"], "batch": options["batch"]},
            "seed": options["seed"],
            "device": options["device"],
        }
        try:
            return parse_recipe(content, source="options")
        except RecipeError as error:
            text = str(error).replace(f"options, step 1 of 1 ({step.name})", f"paretune {self.family}")
            raise RecipeError(text) from None


def _own_params() -> list[click.Parameter]:
    """Return what every technique takes beside the fields of its step."""

    @click.argument("task")
    @click.option("--step", help="Which step of the family.", metavar="NAME")
    @click.option(
        "--threads", type=int, default=1, show_default=True, help="Threads of the runtime when measured."
    )
    @click.option("--batch", type=int, default=1, show_default=True, help="Batch of the runtime when measured.")
    @click.option("--seed", type=int, default=0, show_default=True, help="Decides everything that is random.")
    @click.option("--device", default="cpu", show_default=True, help="Where to train: cpu, cuda or mps.")
    @out_option()
    @cache_option()
    def options() -> None:
        """Only its parameters are used."""

    return list(reversed(options.__click_params__))


def _values_of(option: str, args: Sequence[str]) -> list[str]:
    """Return the values of an option before the command line is parsed."""
    found = []
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == option:
            found.append(following)
        elif arg.startswith(f"{option}="):
            found.append(arg.partition("=")[2])
    return found


train, distill, quantize = map(Technique, ("train", "distill", "quantize"))
prune = Technique("prune", default="channels")
