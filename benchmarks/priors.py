"""Priors: a right one against none at half the budget, a wrong one against none, for `bayes` and `bohb`.

Counting ones with 8 categories and 8 numbers, and Hartmann6 without noise. What is believed is as wide as what
`about(value)` makes of a guess, a quarter of the range for 95 % of it, and choices are weighted 3 to 1. The right
guess is off the best value by a draw of half that standard deviation, one for each seed and number; the wrong one
lies at the end of the range away from it (0.1 or 0.9), with weights for the wrong choice. The incumbent's regret
is compared at cumulative budgets in full runs; medians over seeds, with bootstrap intervals.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _arms import WORK, Arms
from _common import RESULTS, Result, run, say
from _oracles import EXACT, Choice, problem
from _searches import HALVED, in_blocks, ours, summary
from paretune.search import Normal

CHECKS = (8, 16, 32, 64)
SEEDS = 32
PROBLEMS = {"counting_ones": "8", "hartmann6": EXACT}
METHODS: dict[str, dict[str, Any]] = {"bayes": {"bayes": {}}, "bohb": {"bohb": HALVED}}
KINDS = ("none", "right", "wrong")
STD = 0.25 / 1.96
"""What `about(value)` has in [0, 1]."""
HALF, MOST = 1.0, 1.25


def believed(kind: str, name: str, size: str, seed: int) -> dict[str, Any]:
    """Return the priors of every parameter."""
    if kind == "none":
        return {}
    made, generator = problem(name, size, seed), np.random.default_rng([seed, 5])
    found: dict[str, Any] = {}
    for key, each in made.space.items():
        best = made.best[key]
        if isinstance(each, Choice):
            found[key] = [3 if (value == best) == (kind == "right") else 1 for value in each.values]
        elif kind == "right":
            found[key] = Normal(float(np.clip(best + STD / 2 * generator.normal(), 0, 1)), STD)
        else:
            found[key] = Normal(0.1 if best > 0.5 else 0.9, STD)
    return found


def measure(quick: bool) -> Result:
    """Run every method with every prior, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "priors"
    arms = Arms(folder, None if quick else RESULTS / "priors")
    checks, count = ((4, 8), 2) if quick else (CHECKS, SEEDS)
    table: dict[str, dict[str, Any]] = {}
    for name, size in PROBLEMS.items():
        for method in METHODS:
            rows: dict[str, Any] = {}
            for kind in KINDS:
                settings = {"size": size, "method": METHODS[method], "checks": checks}
                body = partial(_runs, name, method, kind, checks)
                regrets = in_blocks(arms, f"{name}-{method}-{kind}", count, settings, body)
                rows[kind] = summary(regrets, checks)
                say(f"{name} {method} {kind}: {rows[kind]['medians']}")
            table[f"{name} {method}"] = rows
    return _result(table, quick)


def _runs(name: str, method: str, kind: str, checks: Sequence[int], seeds: list[int]) -> list[dict[str, Any]]:
    size = PROBLEMS[name]
    priors = {seed: believed(kind, name, size, seed) for seed in seeds}
    return ours(name, size, METHODS[method], seeds, checks, priors)


def _result(table: dict[str, dict[str, Any]], quick: bool) -> Result:
    """Compare the last checkpoint without a prior with the one before it, half of it, and with the last."""
    ratios = {
        case: {
            "right": round(rows["right"]["medians"][-2] / rows["none"]["medians"][-1], 3),
            "wrong": round(rows["wrong"]["medians"][-1] / rows["none"]["medians"][-1], 3),
        }
        for case, rows in table.items()
    }
    right, wrong = (max(each[kind] for each in ratios.values()) for kind in ("right", "wrong"))
    return Result(
        value=wrong,
        unit="final median regret with a wrong prior as a part of that with none, the worst of all cases",
        goal=f"at most {MOST}x; and with a right prior at most {HALF}x at half the budget",
        met=not quick and right <= HALF and wrong <= MOST,
        peer={"name": "no prior", "value": 1.0},
        seeds=tuple(range(SEEDS)),
        detail={"right_at_half": right, "ratios": ratios, "table": table},
    )


if __name__ == "__main__":
    run("priors", measure)
