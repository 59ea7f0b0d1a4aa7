"""Counting ones: BOHB against HpBandSter, DEHB, Optuna and random search, on budgets of 9 to 729.

n categories and n numbers; the loss is minus their sum, the numbers seen through as many coin tosses as the
budget has. Every evaluation is from scratch and costs its budget; the incumbent is the configuration of the
least loss on the largest budget seen, and its regret without noise is compared at cumulative budgets counted in
full runs. Each peer runs in an environment of its own. Medians over seeds, with bootstrap intervals over them.
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
from _peers import environment
from _searches import HALVED, REQUIREMENTS, in_blocks, ours, peer, summary

CHECKS = (1, 4, 8, 16, 32, 64)
SEEDS = 32
FEWER = {"hpbandster": {4: 8, 16: 8, 32: 0}, "dehb": {32: 8}}
"""Seeds where a peer takes too long for more."""
SIZES = (8, 4, 16, 32)
OURS = {"bohb": {}, "bohb as published": {"variant": "paper"}}
GOAL, AT = 0.7, 64


def checks_of(n: int) -> tuple[int, ...]:
    """Return the checkpoints of a size, in full runs."""
    return (*CHECKS, 128) if n >= 16 else CHECKS


def measure(quick: bool) -> Result:
    """Run every method on every size, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "counting_ones"
    arms = Arms(folder, None if quick else RESULTS / "counting_ones")
    table: dict[int, dict[str, Any]] = {}
    for n in (2,) if quick else SIZES:
        checks = (1, 4) if quick else checks_of(n)
        seen: dict[str, np.ndarray] = {}
        for name in (*OURS, *(() if quick else REQUIREMENTS)):
            count = 2 if quick else FEWER.get(name, {}).get(n, SEEDS)
            settings = {"n": n, "checks": checks, "how": OURS.get(name, REQUIREMENTS.get(name))}
            body = partial(_runs, name, n, checks)
            rows = in_blocks(arms, f"{n}-{name.replace(' ', '-')}", count, settings, body)
            if count:
                seen[name] = rows
        table[n] = {name: summary(rows, checks) for name, rows in seen.items()}
        for name, row in table[n].items():
            say(f"{n}+{n} {name}: {row['medians']}")
    return _result(table, quick)


def _runs(name: str, n: int, checks: Sequence[int], seeds: list[int]) -> list[dict[str, Any]]:
    if name in OURS:
        return ours("counting_ones", str(n), {"bohb": HALVED | OURS[name]}, seeds, checks)
    python = environment(name, REQUIREMENTS[name], torch=False)
    return peer(name, python, "counting_ones", str(n), seeds, checks)


def _result(table: dict[int, dict[str, Any]], quick: bool) -> Result:
    n = next(iter(table))
    checks = table[n]["bohb"]["checks"]
    against = "bohb as published" if quick else "hpbandster"
    ratios = [
        round(mine / theirs, 3)
        for mine, theirs in zip(table[n]["bohb"]["medians"], table[n][against]["medians"], strict=True)
    ]
    others = [name for name in REQUIREMENTS if name not in ("hpbandster", "random")]
    best = {} if quick else {
        at: min(table[n][name]["medians"][checks.index(at)] for name in others) for at in (16, 32, 64)
    }  # fmt: skip
    mine = table[n]["bohb"]["medians"]
    met = not quick and all(
        (
            ratios[checks.index(16)] <= 0.9,
            ratios[checks.index(32)] <= 0.9,
            ratios[checks.index(AT)] <= GOAL,
            mine[checks.index(AT)] <= 0.6 * best[AT],
        )
    )
    return Result(
        value=ratios[-1],
        unit=f"median regret as a part of {against}'s, {n}+{n} at {checks[-1]} full runs",
        goal="at most 0.9x HpBandSter's at 16 and 32 full runs and 0.7x at 64; there 0.6x the best of the others",
        met=met,
        peer={"name": against, "value": 1.0},
        seeds=tuple(range(SEEDS)),
        detail={
            "ratios": dict(zip(map(str, checks), ratios, strict=True)),
            "table": {str(k): v for k, v in table.items()},
        },
    )


if __name__ == "__main__":
    run("counting_ones", measure)
