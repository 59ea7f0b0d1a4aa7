"""A search over what a recipe leaves open: every candidate is a run of the flow, measured on validation data.

Steps that candidates share are computed once (the cache of steps). The best candidate is run once more at the end,
in a folder of its own, and only that one sees the test data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, final

from paretune import flow, search
from paretune.errors import InputError, check_choice
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Constraints, amount
from paretune.result import Result
from paretune.search import Space
from paretune.search._study.limits import Spec
from paretune.search._study.method import Method, method_of
from paretune.stages import Listener
from paretune.summary import Row
from paretune.task import load_task
from paretune.tuning._open import OpenRecipe, open_recipe, read_open

MINIMIZED = ("auto", "error", "drop", "latency", "latency_ms", "size", "bytes")
"""What a search can minimise; each is a number that every candidate returns."""
RUNS, BEST = "runs", "best"
"""Folders below the search's own: of the candidates, and of the best ones, by their numbers."""


@final
@dataclass(frozen=True)
class Tuned:
    """What a search over a recipe found."""

    search: search.Result
    """Every candidate, as `paretune.search.minimize` returns it."""
    run: Result
    """The best candidate's run, confirmed on the test data."""


def tune(
    recipe: str | Path | Mapping[str, Any] | OpenRecipe,
    *,
    method: Method = "bayes",
    budget: Spec = "30min",
    out: str | Path,
    minimize: str = "auto",
    storage: str | None = None,
    name: str = "tune",
    **how: Any,
) -> Tuned:
    """Search for the best values of what a recipe leaves open, and run the best.

    recipe: a file, its plain values, or what `read_open` returns. Its task must be named in it.
    minimize: `error` (of the metric), `drop` (against the baseline), `latency` (ratio) or `latency_ms`, `size`
        (ratio) or `bytes`, under the recipe's constraints. `auto`: where the loss of accuracy is bounded and
        latency and size are not, the latency; else the error.
    out: a folder for the runs and the study, gone on with where it is there. method, budget, storage, name, how:
    as `paretune.search.minimize` takes them; the study lies in `out` by default.

    A candidate is what stands at the recipe's end, judged on validation data.
    """
    if "constraints" in how or "objectives" in how or how.get("repeats", 1) != 1:
        raise InputError(
            "a recipe says its constraints itself, and `minimize` the objective; its runs do not differ"
        )
    place = Path(out)
    opened = recipe if isinstance(recipe, OpenRecipe) else _opened(recipe)
    candidate, sampler = Candidate(opened, minimize), method_of(method)
    candidate.check(sampler.budgets)
    place.mkdir(parents=True, exist_ok=True)
    storage = storage or f"sqlite:///{(place / 'study.db').resolve()}"
    found = search.minimize(
        candidate, opened.space, sampler, budget, storage=storage, name=name, folder=place / RUNS,
        constraints=candidate.constraints, **how,
    )  # fmt: skip
    return Tuned(found, run_best(candidate, found, sampler.budgets[-1], place))


def run_best(
    candidate: Candidate, found: search.Result, budget: Any, out: Path, emit: Listener | None = None
) -> Result:
    """Run the best candidate on the full budget, confirmed on the test data; what was done is not done again."""
    config = found.config  # an error, where all failed or none holds the constraints
    assert found.best is not None
    recipe = candidate.opened.filled(config, budget)
    which = sha256(recipe.to_yaml().encode()).hexdigest()[:8]  # numbers are those of one version of the study
    folder = out / f"{BEST}-{found.best.config_number:05}-{which}"
    return flow.run(recipe, out=folder, resume=(folder / "recipe.yaml").is_file(), emit=emit)


def _opened(recipe: str | Path | Mapping[str, Any]) -> OpenRecipe:
    return open_recipe(recipe) if isinstance(recipe, Mapping) else read_open(recipe)


@final
@dataclass(frozen=True)
class Candidate:
    """The objective: a recipe filled in, run in the candidate's folder, and what was measured of its last
    stage."""

    opened: OpenRecipe
    minimize: str = "auto"

    def __post_init__(self) -> None:
        check_choice("minimize", self.minimize, MINIMIZED)
        if self.opened.changes_model and self._asked.max_drop is not None:
            raise InputError(
                f"{self.opened.source}: max_drop is a drop from the task's own model, which `model:` makes "
                "another "
                "for each candidate; leave it out, and the error is minimised under the other constraints"
            )

    def check(self, budgets: tuple[Any, ...]) -> None:
        """Raise an InputError where budgets do not fit the recipe, or its task cannot be loaded."""
        self.opened.check_budgets(budgets)
        load_task(str(self.opened.example.task))

    @property
    def identity(self) -> dict[str, str]:
        """What a study of it must not change: what is minimised, and what is not open in the recipe."""
        return {"minimize": self.minimized, "recipe": self.opened.fixed}

    @property
    def _asked(self) -> Constraints:
        return self.opened.example.constraints

    @property
    def constraints(self) -> dict[str, str]:
        """The recipe's constraints over what a candidate returns."""
        asked = self._asked
        found = {"drop": asked.max_drop, "flips": asked.max_flips, "class_drop": asked.max_class_drop}
        for given, units, names in (
            (asked.max_latency, LATENCY_UNITS, ("latency", "latency_ms")),
            (asked.max_size, SIZE_UNITS, ("size", "bytes")),
        ):
            if given is not None:
                bound, relative = amount(given, units, names[0])
                found[names[0] if relative else names[1]] = bound
        return {name: f"<= {bound:g}" for name, bound in found.items() if bound is not None}

    @property
    def minimized(self) -> str:
        """The number that the search minimises."""
        if self.minimize != "auto":
            return self.minimize
        asked = self._asked
        fast = asked.max_drop is not None and asked.max_latency is None and asked.max_size is None
        return "latency" if fast else "error"

    def __call__(self, config: dict[str, Any], budget: Any, context: search.Run) -> dict[str, float]:
        """Run the candidate, or go on with its run, and return what was measured."""
        assert context.checkpoint_dir is not None
        folder = context.checkpoint_dir / ("run" if budget is None else f"budget-{budget:g}")

        def listen(kind: str, fields: dict[str, Any]) -> None:
            if kind == "epoch":
                context.report(fields["epoch"], fields["loss"])

        made = flow.run(
            self.opened.filled(config, budget), out=folder, resume=(folder / "recipe.yaml").is_file(), test=False,
            emit=listen,
        )  # fmt: skip
        numbers = numbers_of(made.summary["candidates"])
        return {"loss": numbers[self.minimized], **numbers}


def candidate_of(path: Path, minimize: str) -> tuple[Candidate, Space, Mapping[str, str]]:
    """Return the objective of a recipe's file, the space of what it leaves open, and its constraints."""
    made = Candidate(read_open(path), minimize)
    return made, made.opened.space, made.constraints


def numbers_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return what a search may minimise or bound, of the last of a run's rows; the first is the baseline.

    error: 1 - the metric where it is a fraction, else the metric, its sign such that less is better. drop: as
    `max_drop` counts it. latency, size: parts of the baseline's. flips and class_drop where there are classes.
    """
    first, last = rows[0], rows[-1]
    metric, behaviour = last["metric"], last.get("behaviour") or {}
    value, greater = float(metric["value"]), metric.get("greater_is_better", True)
    found = {
        "error": (1 - value if metric.get("fraction") else -value) if greater else value,
        "latency": last["latency"]["ratio"],
        "latency_ms": last["latency"]["median_ms"],
        "size": last["bytes"] / first["bytes"],
        "bytes": last["bytes"],
        "drop": (last.get("decision") or {}).get("drop", 0.0 if len(rows) == 1 else None),
        "flips": behaviour.get("flips"),
        "class_drop": (behaviour.get("worst_class") or {}).get("drop"),
    }
    return {name: float(number) for name, number in found.items() if number is not None}
