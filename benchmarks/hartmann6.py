"""Hartmann6 with four qualities of small budgets: BOHB against HpBandSter, DEHB, Optuna and random search.

Six numbers; the full budget is Hartmann's function itself, smaller ones are biased and noisy, from good to
terrible (`_oracles.Hartmann6`). As in `counting_ones.py` every evaluation is from scratch and costs its budget,
and the incumbent's regret is compared at cumulative budgets counted in full runs. Methods that run on the full
budget alone do not see the quality, and are run once.
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
from _oracles import QUALITIES
from _peers import environment
from _searches import HALVED, REQUIREMENTS, in_blocks, ours, peer, summary

CHECKS = (1, 4, 8, 16, 32, 64)
SEEDS = 16
FEWER = {"hpbandster": 8}
ALONE = ("optuna_tpe", "random")
"""Run on the full budget alone."""
NEAR, WORST = 1.05, 1.1


def measure(quick: bool) -> Result:
    """Run every method on every quality, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "hartmann6"
    arms = Arms(folder, None if quick else RESULTS / "hartmann6")
    checks = (1, 4) if quick else CHECKS
    table: dict[str, dict[str, Any]] = {}
    for quality in ("good",) if quick else QUALITIES:
        seen: dict[str, np.ndarray] = {}
        for name in ("bohb", *(() if quick else REQUIREMENTS)):
            count = 2 if quick else FEWER.get(name, SEEDS)
            which = "any" if name in ALONE else quality
            settings: dict[str, Any] = {"quality": which, "checks": checks, "how": REQUIREMENTS.get(name)}
            if name not in ALONE:
                settings["bias and noise"] = QUALITIES[quality]
            body = partial(_runs, name, quality, checks)
            seen[name] = in_blocks(arms, f"{which}-{name}", count, settings, body)
        table[quality] = {name: summary(rows, checks) for name, rows in seen.items()}
        for name, row in table[quality].items():
            say(f"{quality} {name}: {row['medians']}")
    return _result(table, checks, quick)


def _runs(name: str, quality: str, checks: Sequence[int], seeds: list[int]) -> list[dict[str, Any]]:
    if name == "bohb":
        return ours("hartmann6", quality, {"bohb": HALVED}, seeds, checks)
    python = environment(name, REQUIREMENTS[name], torch=False)
    return peer(name, python, "hartmann6", quality, seeds, checks)


def _result(table: dict[str, dict[str, Any]], checks: Sequence[int], quick: bool) -> Result:
    ratios = {
        quality: [
            round(
                mine / min((row["medians"][at] for name, row in rows.items() if name != "bohb"), default=mine), 3
            )
            for at, mine in enumerate(rows["bohb"]["medians"])
        ]
        for quality, rows in table.items()
    }
    worst = max(max(row) for row in ratios.values())
    against: dict[str, float] = {}
    if not quick:
        rows = table["terrible"]
        pairs = zip(checks, rows["bohb"]["medians"], rows["optuna_tpe"]["medians"], strict=True)
        against = {str(at): round(mine / theirs, 3) for at, mine, theirs in pairs}
    return Result(
        value=worst,
        unit="median regret as a part of the best peer's, the worst of all qualities and checkpoints",
        goal=f"lowest or within 5 % of the lowest at every checkpoint; terrible: at most {WORST}x Optuna TPE",
        met=not quick and worst <= NEAR and max(against.values()) <= WORST,
        peer={"name": "best of HpBandSter, DEHB, Optuna, random", "value": 1.0},
        seeds=tuple(range(SEEDS)),
        detail={"ratios": ratios, "terrible_to_tpe": against, "table": table},
    )


if __name__ == "__main__":
    run("hartmann6", measure)
