"""`minimize` and `resume`: what a user gives is checked, the storage opened, and the search run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from paretune.errors import RunError, check_whole
from paretune.search._space.space import Space
from paretune.search._study.auto import settled
from paretune.search._study.checkpoints import folder_for
from paretune.search._study.definition import plan_to_json
from paretune.search._study.events import Events
from paretune.search._study.executors import Executor, InProcess
from paretune.search._study.front import found_by
from paretune.search._study.goals import LOSS, Constraints, Objectives, goals_of
from paretune.search._study.guests import Desk
from paretune.search._study.lending import lend
from paretune.search._study.limits import Spec, limits_of, seconds
from paretune.search._study.method import Method, method_of
from paretune.search._study.objective import Objective, arity
from paretune.search._study.opening import plan_of
from paretune.search._study.plain import space_from_json
from paretune.search._study.processes import Processes
from paretune.search._study.result import Result
from paretune.search._study.source import check_source
from paretune.search._study.study import Search
from paretune.search._study.versions import opened


def minimize(
    objective: Objective,
    space: Space | Mapping[str, Any],
    method: Method = "bohb",
    budget: Spec = 100,
    *,
    storage: str | None = None,
    name: str = "study",
    seed: int = 0,
    objectives: Objectives = LOSS,
    constraints: Constraints | None = None,
    repeats: int = 1,
    workers: int = 1,
    timeout: float | str | None = None,
    memory: int | None = None,
    folder: str | Path | None = None,
    strict: bool = False,
    join: bool = False,
    listen: Callable[[str, dict[str, Any]], None] | None = None,
) -> Result:
    """Search for the configuration with the least loss.

    objective: (config, budget, context) -> the loss, or {"loss": ..., other numbers}; it may take the first one or
        two alone. budget is None by methods that have none. context: see `Run`. What it returns as `test`, or as
        `test_...`, is stored, and nothing looks at it before the end.
    space: a Space, or a mapping of parameters.
    method: a name that `paretune methods samplers` lists, one with settings ({"bohb": {"min": 1, "max": 27}}),
        or a sampler, one of Optuna's ("optuna.NSGAIISampler", or an object) among them.
    budget: of the search: a number of runs, wall time ("30min"), or {"runs": 20} and its like (`limits_of`).
        Runs and work of earlier processes of the same study count.
    storage: an Optuna URL, as sqlite:///study.db; None keeps nothing. A study of that name goes on.
    seed: with one worker the same seed gives the same study. folder: where runs may leave checkpoints.
    objectives: names of numbers that the objective returns, all to be small: ("loss", "latency"); or with `min` or
        `max` each: {"loss": "min", "accuracy": "max"}. What goes on to larger budgets is chosen by fronts.
    constraints: bounds on numbers that it returns: {"latency_ms": "<= 5", "accuracy": ">= 0.9"}.
    repeats: runs of each configuration on the largest budget, each with another `context.seed`; their mean counts,
        and each of them counts as a run of the budget.
    workers: above 1, runs happen in so many processes of their own; the objective must then be defined at the
        top of a module. timeout: of a run, "10min"; one that takes longer is killed and counts as failed.
        memory: bytes that a worker may have. Both put runs into a process of their own with one worker, too.
    join: where another process runs the study already, lend it `workers` processes until it ends; else run it.
        Without it a study that another process runs is an InputError. It must have begun with 2 workers or more.
    strict: an objective whose source is not what it was when the study was last run, or that of a worker, is an
        error; else listen is told as ("warning", {"text": ...}).
    listen: told what happens, as ("run", {...}); ("plan", {...}) is what `expected_runs` returns of what is left.

    A run that raises, or returns no finite number, counts as the worst result. Where the first 5 runs, or more
    than half of all, fail, the study stops with the commonest reason.
    """
    space = space if isinstance(space, Space) else Space(space)
    check_whole("seed", seed, least=0)
    sampler, limits = method_of(method).seeded(seed), limits_of(budget)
    arity(objective)
    goals = goals_of(objectives, constraints)
    check_whole("repeats", repeats)
    told = Events(listen)
    space = settled(space, storage, name, told)
    plan = plan_to_json(space, sampler, seed, goals, repeats, objective)
    warn = _warner(told, strict)
    executor = _executor(objective, told, warn, workers, timeout, memory, lends=storage is not None)
    with ExitStack() as left:
        left.callback(executor.stop)
        store = opened(storage, name, plan, space, told)
        space = in_order(space, store.study.user_attrs["space"]["parameters"])
        while join and (driver := store.driver()) is not None:
            check_source(store.study, objective, strict or driver.strict, warn, keep=False)
            lend(driver, objective, workers, memory)
            if store.left(driver):
                trials = tuple(store.read())
                found = found_by(trials, goals, repeats, len(sampler.budgets) - 1)
                ended = f"the end of {driver}, to which workers were lent"
                return Result(found.best, trials, ended, found, told.told)
        left.enter_context(store.driven(executor.desk, strict=strict))
        check_source(store.study, objective, strict, warn)
        place = None if folder is None else folder_for(Path(folder), store.name, store.token())
        return Search(executor, space, sampler, limits, store, seed, place, told, repeats).run()


def resume(objective: Objective, storage: str, budget: Spec, *, name: str = "study", **how: Any) -> Result:
    """Go on with a stored study; what it searches, how, and for what are those that it was begun with.

    objective, storage, budget, name, how: as `minimize` takes them; a `method` that was an object, and a `space`
        with rules that are functions, are not stored and must be given. A study that is not there is an
        InputError.
    """
    plan = plan_of(storage, name)
    plan.pop("searched", None)  # it is compared with what is given
    plan |= how
    if "space" not in how:
        plan["space"] = space_from_json(plan["space"])
    return minimize(objective, budget=budget, storage=storage, name=name, **plan)


def in_order(space: Space, names: Iterable[str]) -> Space:
    """Return a space whose parameters are in the order in which a study was begun: that of columns and draws."""
    ordered = {name: space[name] for name in names if name in space.parameters}
    return space if list(ordered) == list(space.parameters) else Space(ordered, space.forbid)


def _executor(
    objective: Objective,
    listen: Callable[[str, dict[str, Any]], None],
    warn: Callable[[str], None],
    workers: int,
    timeout: float | str | None,
    memory: int | None,
    lends: bool,
) -> Executor:
    check_whole("workers", workers)
    check_whole("memory", memory)

    def report(run: int, step: int, loss: float) -> None:
        listen("report", {"run": run, "step": step, "loss": loss})

    if workers == 1 and timeout is None and memory is None:
        return InProcess(objective, report)
    most = None if timeout is None else seconds(timeout, "timeout")
    return Processes(
        objective, report, workers, timeout=most, memory=memory, warn=warn, desk=Desk() if lends else None
    )


def _warner(listen: Callable[[str, dict[str, Any]], None], strict: bool) -> Callable[[str], None]:
    """Return what is called with a warning: an error where `strict`."""

    def warn(text: str) -> None:
        if strict:
            raise RunError(f"strict: {text}; what was finished is kept")
        listen("warning", {"text": text})

    return warn
