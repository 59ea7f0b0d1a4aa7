"""What each part of `bohb` is worth: the same search without it, on six problems.

Counting ones 8+8 and 16+16, Hartmann6 with good, bad and terrible small budgets, and the four shown tasks of the
LCBench surrogate by its own run times (geometric mean over the tasks). Medians of the regret over seeds at 16,
32 and 64 full runs, as parts of those of the default. A part pays on a problem where the geometric mean over the
checkpoints is lower with it than without; one that does not pay on two of the problems is not on by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import lcbench
from _arms import WORK, Arms
from _common import RESULTS, Result, run, say
from _searches import HALVED, in_blocks, ours

CHECKS = (16, 32, 64)
SEEDS = 16
FLOOR = 0.02
"""Regrets below count as this, in the units of each problem."""
PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "without evidence of smaller budgets": {"evidence": 0.0},
    "without TPE's densities": {"parzen": 0.0},
    "trusting every budget": {"trusting": True},
    "a third of the draws random": {"random": 1 / 3},
    "without joint densities": {"together": 0.0},
    "without early marginals": {"early": 10_000, "together": 1.0, "evidence": 0.0},
    "as published": {"variant": "paper"},
}
PROBLEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "counting ones 8+8": ("counting_ones", ("8",)),
    "counting ones 16+16": ("counting_ones", ("16",)),
    "hartmann6 good": ("hartmann6", ("good",)),
    "hartmann6 bad": ("hartmann6", ("bad",)),
    "hartmann6 terrible": ("hartmann6", ("terrible",)),
    "lcbench": ("lcbench", ("3945", "34539", "168908", "167168")),
}


def measure(quick: bool) -> Result:
    """Run every part on every problem, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "bohb_parts"
    arms = Arms(folder, None if quick else RESULTS / "bohb_parts")
    checks = (1, 2) if quick else CHECKS
    problems = dict(list(PROBLEMS.items())[:1]) if quick else PROBLEMS
    parts = dict(list(PARTS.items())[:2]) if quick else PARTS
    table: dict[str, dict[str, list[float]]] = {}
    for problem, (name, sizes) in problems.items():
        rows = {}
        for part, settings in parts.items():
            medians = [_median(arms, name, size, part, settings, checks, quick) for size in sizes]
            rows[part] = np.exp(np.log(np.maximum(medians, FLOOR)).mean(axis=0))
            say(f"{problem}, {part}: {rows[part].round(3).tolist()}")
        table[problem] = {part: [round(float(each), 4) for each in row] for part, row in rows.items()}
    worth = {
        part: {
            problem: round(float(np.exp(np.mean(np.log(rows[part]) - np.log(rows["default"])))), 3)
            for problem, rows in table.items()
        }
        for part in parts
        if part != "default"
    }
    pays = {part: sum(ratio > 1 for ratio in found.values()) for part, found in worth.items()}
    return Result(
        value=min(pays.values()),
        unit="problems of six that the least useful part pays on",
        goal="every part that is on by default pays on two problems or more",
        met=not quick and min(pays.values()) >= 2,
        peer={"name": "the default, 1 at each checkpoint", "value": 1.0},
        seeds=tuple(range(2 if quick else SEEDS)),
        detail={"checks": list(checks), "medians": table, "regret without, against the default": worth},
    )


def _median(
    arms: Arms, name: str, size: str, part: str, settings: dict[str, Any], checks: Sequence[int], quick: bool
) -> np.ndarray:
    told = {"problem": name, "size": size, "checks": checks, "settings": settings}
    body = partial(_runs, name, size, settings, checks)
    regrets = in_blocks(arms, f"{name}-{size}-{part.replace(' ', '-')}", 2 if quick else SEEDS, told, body)
    return np.asarray(np.median(regrets, axis=0))


def _runs(
    name: str, size: str, settings: dict[str, Any], checks: Sequence[int], seeds: list[int]
) -> list[dict[str, Any]]:
    if name == "lcbench":
        return lcbench.ours(settings, size, seeds, checks)
    return ours(name, size, {"bohb": HALVED | settings}, seeds, checks)


if __name__ == "__main__":
    run("bohb_parts", measure)
