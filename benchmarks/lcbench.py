"""LCBench: BOHB with and without an eye on the clock, against HpBandSter, DEHB, Optuna and random search.

The surrogate of `_lcbench.py`, whose run times are the cost: checkpoints are at cumulative seconds, counted in
mean full runs, and what a run finds counts from its end on. Four tasks are shown, 30 were held out when anything
was chosen. For every task the median regret over seeds, floored at 0.02 points; compared are geometric means over
tasks. Intervals are bootstrapped over seeds within tasks.

Arms are kept one by one, the shown tasks' first: it can be stopped and goes on.
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
from _lcbench import RANGES, SHOWN, keep_reference, tasks
from _oracles import track_of
from _peers import environment
from _searches import REQUIREMENTS, peer
from paretune.search import Float, Space
from paretune.search._study.simulated import Simulated, simulate

CHECKS, SEEDS, FLOOR, MOST = (1, 4, 8, 16, 32, 64), 4, 0.02, 100.0
BUDGETS = {"min": 2, "max": 52}
OURS: dict[str, dict[str, Any]] = {
    "bohb": {},
    "bohb by cost": {"cost": True},
    "bohb as published": {"variant": "paper"},
}
ORACLE = "onnxruntime==1.23.2"
"""In the peers' environments: the last one that NumPy 1 has, too."""
GOAL, BY_COST = 0.8, 0.85


def ours(settings: dict[str, Any], task: str, seeds: Sequence[int], checks: Sequence[int]) -> list[dict[str, Any]]:
    """Run paretune with every seed, by the surrogate's clock."""
    found = []
    for seed in seeds:
        track = track_of("lcbench", task, seed, checks)
        space = Space({name: Float(0, 1) for name in RANGES})

        def told(config: dict[str, Any], budget: Any, track: Any = track) -> tuple[float, float]:
            return track.evaluate(config, budget), track.problem.cost(config, budget)

        limit = {"work": checks[-1] * track.full}
        result = simulate(Simulated(told), space, {"bohb": BUDGETS | settings}, limit, seed=seed)
        regret = MOST if result.best is None else track.problem.regret(result.best.config)
        missing = len(checks) - len(track.regrets)  # it ends where nothing more fits
        found.append({"regrets": track.regrets + [regret] * missing, "evaluations": track.evaluations})
    return found


def measure(quick: bool) -> Result:
    """Run every method on every task, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "lcbench"
    arms = Arms(folder, None if quick else RESULTS / "lcbench")
    checks = (1, 4) if quick else CHECKS
    held = [] if quick else [task for task in tasks() if task not in SHOWN]
    regrets: dict[str, dict[str, np.ndarray]] = {}
    for group in (SHOWN[:1] if quick else SHOWN, held):
        for task in group:
            keep_reference(task)
        for name in (*OURS, *(() if quick else REQUIREMENTS)):
            for task in group:
                seeds = list(range(2 if quick else SEEDS))
                settings = {
                    "task": task,
                    "seeds": seeds,
                    "checks": checks,
                    "how": OURS.get(name, REQUIREMENTS.get(name)),
                }
                row = arms.finish(
                    f"{task}-{name.replace(' ', '-')}", settings, partial(_arm, name, task, seeds, checks)
                )
                kept = np.minimum([each["regrets"] for each in row["runs"]], MOST)
                regrets.setdefault(name, {})[task] = kept
        for name, rows in regrets.items():
            say(f"{name}, {len(rows)} tasks: {score(rows.values()).round(3).tolist()}")
    return _result(regrets, checks, quick)


def _arm(name: str, task: str, seeds: Sequence[int], checks: Sequence[int], folder: Path) -> dict[str, Any]:
    if name in OURS:
        return {"runs": ours(OURS[name], task, seeds, checks)}
    python = environment(name, (*REQUIREMENTS[name], ORACLE), torch=False)
    return {"runs": peer(name, python, "lcbench", task, seeds, checks)}


def score(rows: Any) -> np.ndarray:
    """Return the geometric mean over tasks of the median regret over seeds, (checkpoints,); rows: (seeds,
    checkpoints) of each task."""
    return np.asarray(np.exp(np.mean([np.log(np.maximum(np.median(row, axis=0), FLOOR)) for row in rows], axis=0)))


def ratio(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the ratio of scores at every checkpoint, and its 95 % interval over seeds at the last."""
    generator, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        picked = [
            score([row[generator.integers(len(row), size=len(row))] for row in rows.values()])[-1]
            for rows in (mine, theirs)
        ]
        drawn.append(picked[0] / picked[1])
    low, high = np.quantile(drawn, (0.025, 0.975))
    found = score(mine.values()) / score(theirs.values())
    return {
        "ratios": [round(float(value), 3) for value in found],
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def _result(regrets: dict[str, dict[str, np.ndarray]], checks: Sequence[int], quick: bool) -> Result:
    against = "bohb as published" if quick else "optuna_hyperband"
    groups = {"all": list(regrets["bohb"]), "shown": [task for task in regrets["bohb"] if task in SHOWN]}
    groups["held out"] = [task for task in groups["all"] if task not in SHOWN]
    table: dict[str, Any] = {}
    for group, names in groups.items():
        if not names:
            continue
        chosen = {name: {task: rows[task] for task in names} for name, rows in regrets.items()}
        table[group] = {
            "scores": {name: score(rows.values()).round(3).tolist() for name, rows in chosen.items()},
            "bohb against": {name: ratio(chosen["bohb"], rows) for name, rows in chosen.items() if name != "bohb"},
            "by cost against bohb": ratio(chosen["bohb by cost"], chosen["bohb"]),
        }
    key = "held out" if "held out" in table else "shown"
    main = table[key]["bohb against"][against]
    met = not quick and all(
        (
            main["ratios"][-1] <= GOAL,
            table[key]["bohb against"]["hpbandster"]["low"] <= 1.0,
            table[key]["by cost against bohb"]["ratios"][-1] <= BY_COST,
        )
    )
    return Result(
        value=main["ratios"][-1],
        unit=f"geometric mean of median regrets as a part of {against}'s, {key} tasks at {checks[-1]} full runs",
        goal=f"at most {GOAL}x Optuna TPE + Hyperband, not significantly above HpBandSter's; by cost at most "
        f"{BY_COST}x without",
        met=met,
        peer={"name": against, "value": 1.0},
        seeds=tuple(range(2 if quick else SEEDS)),
        detail={"checks": list(checks), "table": table},
    )


if __name__ == "__main__":
    run("lcbench", measure)
