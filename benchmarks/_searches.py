"""What benchmarks of the search share: paretune and its peers on a problem of `_oracles`, seed by seed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _arms import Arms
from _oracles import BUDGETS, Choice, Track, problem
from paretune.search import Categorical, Float, Space, minimize

BLOCK = 8
"""Seeds of an arm."""
HALVED = {"min": BUDGETS[0], "max": BUDGETS[-1]}
REQUIREMENTS = {
    "dehb": ("dehb==0.1.2",),
    "optuna_tpe": ("optuna==5.0.0", "scipy"),
    "optuna_hyperband": ("optuna==5.0.0", "scipy"),
    "random": ("numpy<2.4",),
    "hpbandster": ("hpbandster==0.7.4", "numpy<2"),
}


def space_of(name: str, size: str, priors: Mapping[str, Any] | None = None) -> Space:
    """Return a problem's space. priors: by parameter, weights for choices; none where None."""
    priors = priors or {}
    return Space(
        {
            key: Categorical(each.values, weights=priors.get(key))
            if isinstance(each, Choice)
            else Float(each.low, each.high, prior=priors.get(key))
            for key, each in problem(name, size, 0).space.items()
        }
    )


def ours(
    name: str,
    size: str,
    method: dict[str, Any],
    seeds: Sequence[int],
    checks: Sequence[float],
    priors: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Run paretune with every seed; each has priors of its own where there are some."""
    found = []
    halved = next(iter(method)) == "bohb"
    for seed in seeds:
        track = Track(problem(name, size, seed), checks, BUDGETS[-1])
        space = space_of(name, size, None if priors is None else priors[seed])

        def evaluate(config: dict[str, Any], budget: Any, track: Track = track) -> float:
            return track.evaluate(config, BUDGETS[-1] if budget is None else budget)

        runs = checks[-1] + 1 if halved else checks[-1]
        minimize(evaluate, space, method, budget={"runs": runs}, seed=seed)
        found.append({"regrets": track.regrets, "evaluations": track.evaluations})
    return found


def peer(
    name: str, python: Path, task: str, size: str, seeds: Sequence[int], checks: Sequence[float]
) -> list[dict[str, Any]]:
    """Run a peer with every seed, each in a process of its own."""
    found = []
    for seed in seeds:
        script = Path(__file__).with_name("_search_peer.py")
        command = [str(python), str(script), name, task, size, str(seed), *map(str, checks)]
        made = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        found.append(json.loads(made.stdout.strip().splitlines()[-1]))
    return found


def in_blocks(
    arms: Arms,
    name: str,
    count: int,
    settings: Mapping[str, Any],
    runs: Callable[[list[int]], list[dict[str, Any]]],
) -> np.ndarray:
    """Return the regrets of `count` seeds, (seeds, checkpoints), a block of them an arm.

    runs: (seeds) -> for each of them a mapping with `regrets`.
    """
    regrets: list[list[float]] = []
    for start in range(0, count, BLOCK):
        seeds = list(range(start, min(start + BLOCK, count)))

        def body(folder: Path, seeds: list[int] = seeds) -> dict[str, Any]:
            return {"runs": runs(seeds)}

        found = arms.finish(f"{name}-{start:02}", {**settings, "seeds": seeds}, body)
        regrets += [each["regrets"] for each in found["runs"]]
    return np.array(regrets)


def summary(regrets: np.ndarray, checks: Sequence[int]) -> dict[str, Any]:
    """Return the median at every checkpoint with its 95 % bootstrap interval over seeds."""
    generator = np.random.default_rng(0)
    drawn = np.median(regrets[generator.integers(len(regrets), size=(2000, len(regrets)))], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    medians = np.median(regrets, axis=0)
    return {
        "seeds": len(regrets),
        "checks": list(checks),
        "medians": [round(float(value), 3) for value in medians],
        "low": [round(float(value), 3) for value in low],
        "high": [round(float(value), 3) for value in high],
    }
