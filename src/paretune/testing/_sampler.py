"""The contract of a sampler."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from paretune.search._results import Growing, Results
from paretune.search._schedule.schedules import Schedule
from paretune.search._space.parameters import Categorical, Constant, Float, Int, Ordered
from paretune.search._space.predicates import when
from paretune.search._space.priors import Normal
from paretune.search._space.space import Config, Space, key
from paretune.search.samplers._base import Exhausted, Sampler, Suggestion

SPACE = Space(
    {
        "opt": Categorical(["sgd", "adam"], weights=[1, 3]),
        "lr": Float(1e-5, 1e-1, log=True),
        "momentum": Float(0, 1, prior=Normal(0.9, 0.1), when=when("opt", "sgd")),
        "layers": Int(1, 4),
        "size": Ordered([8, 16, 32]),
        "kind": Constant("mlp"),
    },
    forbid=["layers == 4 and size == 32"],
)
RUNS = 40
SAME = "the same results and generator give the same suggestion"


def check_sampler(sampler: Sampler) -> None:
    """Raise an AssertionError where a sampler breaks a rule of the family; it is run on a space with all there is.

    Rules: its budgets rise, its schedule always has a next job; a suggestion is a configuration of the space
        that no rule forbids, and its row is that configuration's; it depends on what `suggest` is given alone,
        twice the same for the same, whatever failed, and changes none of it.
    """
    assert isinstance(sampler, Sampler) and sampler.name, "a sampler is a Sampler with a name"
    budgets = [budget for budget in sampler.budgets if budget is not None]
    assert sampler.budgets and all(a < b for a, b in pairwise(budgets)), "budgets rise"
    for workers in (1, 3):
        schedule = sampler.schedule(workers)
        assert isinstance(schedule, Schedule) and schedule is not sampler.schedule(workers), "a schedule is fresh"
        assert all(0 <= schedule.next().rung < len(sampler.budgets) for _ in range(RUNS)), "there is always a job"
    results = Growing(len(SPACE))
    for number in range(RUNS):
        given = results.results()
        before = (given.rows.copy(), given.losses.copy(), given.rungs.copy())
        try:
            suggestion = _suggested(sampler, given, number)
        except Exhausted:
            assert number > 0, "a sampler has something to suggest"
            return
        _check(suggestion)
        again = _suggested(sampler, given, number)
        assert key(again.config) == key(suggestion.config), SAME
        after = (given.rows, given.losses, given.rungs)
        unchanged = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))
        assert unchanged, "results are not changed"
        results.add(suggestion.row, _loss(suggestion.config, number), number % len(sampler.budgets))


def _suggested(sampler: Sampler, results: Results, number: int) -> Suggestion:
    return sampler.suggest(SPACE, results, np.random.default_rng([0, number]), number)


def _check(suggestion: Suggestion) -> None:
    assert isinstance(suggestion, Suggestion) and isinstance(suggestion.origin, str), (
        "suggest returns a Suggestion"
    )
    row = SPACE.row(suggestion.config)  # an InputError says what is no configuration, or forbidden
    assert SPACE.config(row) == suggestion.config, "a configuration has its active values, and no others"
    assert SPACE.config(suggestion.row) == suggestion.config, "the row is that of the configuration"
    assert np.array_equal(np.isnan(suggestion.row), np.isnan(row)), "inactive parameters are NaN in the row"


def _loss(config: Config, number: int) -> float:
    """Return a loss with a best corner; every seventh run fails."""
    return math.inf if number % 7 == 3 else abs(math.log10(config["lr"]) + 3) + (config["opt"] == "adam")
