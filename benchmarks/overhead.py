"""What a suggestion costs: BOHB's sampler against Optuna's TPE, with 1,000 and 5,000 results of ten parameters.

Eight numbers, a whole number and four categories; random results on one budget. Timed is a suggestion from the
model alone: `suggest` here, `ask` with all parameters there, on a study in memory. Both in turns, medians.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from typing import Any

import numpy as np
import optuna

from _common import Result, run, say
from paretune.search import Categorical, Float, Int, Space
from paretune.search._results import Growing, Results
from paretune.search.samplers import Bohb

SIZES, TURNS, GOAL = (1000, 5000), 15, 0.5
LONG, MEGABYTES = 50_000, 50
SPACE = Space(
    {f"x{i}": Float(0, 1) for i in range(8)} | {"n": Int(1, 100), "c": Categorical(["a", "b", "c", "d"])}
)


def results_of(count: int) -> Results:
    """Return random results on one budget."""
    generator = np.random.default_rng(0)
    growing = Growing(len(SPACE))
    for row, loss in zip(SPACE.rows(generator.random((count, len(SPACE)))), generator.random(count), strict=True):
        growing.add(row, float(loss), 0)
    return growing.results()


def theirs(results: Results) -> Any:
    """Return Optuna's study with the same results."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    distributions: dict[str, Any] = {f"x{i}": optuna.distributions.FloatDistribution(0, 1) for i in range(8)}
    distributions |= {
        "n": optuna.distributions.IntDistribution(1, 100),
        "c": optuna.distributions.CategoricalDistribution(["a", "b", "c", "d"]),
    }
    for row, loss in zip(results.rows, results.losses, strict=True):
        config = SPACE.config(row)
        study.add_trial(optuna.trial.create_trial(params=config, distributions=distributions, value=float(loss)))
    return study, distributions


def measure(quick: bool) -> Result:
    """Time both on every size."""
    rows = {}
    for size in (100,) if quick else SIZES:
        results = results_of(size)
        study, distributions = theirs(results)
        sampler, taken = Bohb(random=0.0), {"ours": [], "optuna": []}
        for turn in range(3 if quick else TURNS):
            began = time.perf_counter()
            sampler.suggest(SPACE, results, np.random.default_rng(turn), turn)
            taken["ours"].append(time.perf_counter() - began)
            began = time.perf_counter()
            study.ask(distributions)
            taken["optuna"].append(time.perf_counter() - began)
        rows[str(size)] = {name: round(1e3 * statistics.median(times), 2) for name, times in taken.items()}
        say(f"{size} results: {rows[str(size)]} ms")
    tracemalloc.start()
    kept = results_of(1000 if quick else LONG)
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    ratios = {size: row["ours"] / row["optuna"] for size, row in rows.items()}
    worst = max(ratios.values())
    return Result(
        value=round(worst, 3),
        unit="time of a suggestion as a part of Optuna TPE's, the worse of both sizes",
        goal=f"at most {GOAL}x at 1,000 and 5,000 results; {LONG:,} results under {MEGABYTES} MB",
        met=not quick and worst <= GOAL and held <= MEGABYTES,
        peer={"name": f"Optuna {optuna.__version__} TPE", "value": 1.0},
        detail={"ms": rows, "megabytes": round(held, 1), "results": len(kept)},
    )


if __name__ == "__main__":
    run("overhead", measure)
