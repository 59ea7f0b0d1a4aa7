"""A study's story: what its page draws and `--json` prints, all of it plain values, thinned where there is much.

Losses of different budgets do not compare, so that what needs one budget (which parameters matter, where the good
runs are) takes the one with most runs: a larger one has but those that were good already, which differ little.

What is told of a run is its first objective as the user has it, its mean over repeats; which run is better than
another one the study's own order says (`_ranking`), where constraints and all objectives count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.search._density import columns
from paretune.search._look.curves import DOTS, PATHS, curves, points, promotions, rungs, thinned, value_of
from paretune.search._look.expected import expected_seconds
from paretune.search._look.importance import density, good_of, importances, places, width_of
from paretune.search._ranking import Point, arrays, order
from paretune.search._schedule.ladder import Budget
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Space
from paretune.search._study.front import Found
from paretune.search._study.goals import Goals
from paretune.search._study.repeats import wholes
from paretune.search._study.trial import LOST, Trial

Array = NDArray[np.float64]
PARAMETERS = 12
"""Most parameters that are drawn, those that matter most."""
TABLE = 20
"""Runs in the table of the best."""
FEW = 6
"""Values of a number that are all written along its axis."""


def story(
    space: Space,
    trials: Sequence[Trial],
    budgets: Sequence[Budget | None],
    *,
    name: str,
    method: str,
    found: Found,
    repeats: int = 1,
) -> dict[str, Any]:
    """Return what a study's page shows.

    trials: all of its runs. found: what the study found in them. repeats: runs of a configuration on the largest
        budget.
    """
    goals, top = found.goals, len(budgets) - 1
    ended = sorted(
        (trial for trial in trials if trial.finished is not None and not trial.error.startswith(LOST)),
        key=lambda trial: (trial.finished, trial.number),
    )
    good = [trial for trial in ended if not trial.error]
    whole = [trial for trial in wholes(ended, repeats, top) if not trial.error]
    rung, at_rung = _telling(whole)
    rows = np.array([space.row(trial.config) for trial in at_rung]).reshape(-1, len(space))
    ranks = _ranks(at_rung, goals)
    shares = importances(space, rows, ranks)
    shown = [n for n in sorted(shares, key=lambda n: -shares[n]) if not isinstance(space[n], Constant)][
        :PARAMETERS
    ]
    return {
        "name": name,
        "method": method,
        "budgets": list(budgets),
        "runs": len(trials),
        "finished": len(good),
        "failed": sum(bool(trial.error) for trial in ended),
        "lost": sum(trial.error.startswith(LOST) for trial in trials),
        "running": sum(trial.loss is None for trial in trials),
        "work": sum(trial.seconds for trial in trials),
        "objectives": [list(objective) for objective in goals.objectives],
        "constraints": [f"{bound.name} {bound.text}" for bound in goals.constraints],
        "best": found.best and _told(found.best, goals),
        "front": [_told(trial, goals) for trial in found.front] if goals.several else [],
        "nearest": found.nearest and _told(found.nearest, goals),
        "points": points(whole, found.front, goals),
        "curves": curves(ended, budgets, goals, repeats),
        "rungs": rungs(whole, budgets, goals),
        "promotions": promotions(whole, goals),
        "told_at": {"budget": budgets[rung] if rung < len(budgets) else None, "runs": len(at_rung)},
        "importances": shares,
        "parameters": [_parameter(space, name, trials, rows, ranks) for name in shown],
        "coordinates": _coordinates(space, shown, at_rung, ranks, goals),
        "seconds": _seconds(good, expected_seconds(space, ended, budgets)),
        "table": [_told(trial, goals) for trial in _ranked(whole, goals)[:TABLE]],
        "failures": _failures(ended),
        "notes": _notes(len(good), sum(not isinstance(space[n], Constant) for n in space.names), shown),
    }


def _ranks(runs: Sequence[Trial], goals: Goals) -> Array:
    """Return what orders runs of one budget that succeeded, (n,), the lower the better."""
    scores = [goals.score(trial) for trial in runs]
    if any(isinstance(score, Point) for score in scores):
        return order(*arrays(scores))
    return np.array(scores, dtype=np.float64)


def _ranked(whole: Sequence[Trial], goals: Goals) -> list[Trial]:
    """Return finished runs, those on the largest budget first, the best of each first."""
    found: list[Trial] = []
    for rung in sorted({trial.rung for trial in whole}, reverse=True):
        runs = sorted((trial for trial in whole if trial.rung == rung), key=lambda trial: trial.number)
        found += [runs[index] for index in np.argsort(_ranks(runs, goals), kind="stable")]
    return found


def _told(trial: Trial, goals: Goals) -> dict[str, Any]:
    """Return a run that succeeded with its objectives and what it misses."""
    return trial.to_json() | goals.told(trial)


def _telling(good: Sequence[Trial]) -> tuple[int, list[Trial]]:
    """Return the rung with most runs, of equal ones the larger, and its runs."""
    counts = Counter(trial.rung for trial in good)
    rung = max(counts, key=lambda each: (counts[each], each), default=0)
    return rung, [trial for trial in good if trial.rung == rung]


def _parameter(space: Space, name: str, trials: Sequence[Trial], rows: Array, ranks: Array) -> dict[str, Any]:
    """Return what is known of one parameter: its marks, prior, posterior, and what was suggested, in order."""
    parameter, column = space[name], space.names.index(name)
    about = columns(space, 1e-2)
    categories = int(about.categories[column])
    at = places(categories)
    best = rows[good_of(ranks), column] if len(rows) else np.empty(0)
    best = best[~np.isnan(best)]
    posterior: list[float] | None = None
    if len(best) >= 2:
        posterior = density(best, at, width_of(best, about, column), categories).tolist()
    first = {trial.config_number: trial for trial in reversed(trials)}
    suggested = [
        [number, parameter.encode(first[number].config[name])]
        for number in sorted(first)
        if name in first[number].config
    ]
    return {
        "name": name,
        "kind": parameter.scale,
        "marks": _marks(space, name),
        "at": at.tolist(),
        "prior": parameter.density(at).tolist(),
        "posterior": posterior,
        "good": len(best),
        "suggested": thinned(suggested, DOTS),
    }


def _marks(space: Space, name: str) -> list[list[Any]]:
    """Return where an axis of a parameter has words, and which: [[0.5, "sgd"], ...]."""
    parameter = space[name]
    if parameter.scale == "number" and parameter.count > FEW:
        values = [parameter.decode(unit) for unit in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return [[parameter.encode(value), f"{value:.3g}"] for value in values]
    return [[parameter.encode(value), f"{value}"] for value in parameter.values()]


def _coordinates(
    space: Space, shown: Sequence[str], runs: Sequence[Trial], ranks: Array, goals: Goals
) -> dict[str, Any]:
    """Return runs of one budget across the parameters; rank: 0 the best, 1 the worst.

    Where there are many, half of what is drawn is the best runs, and the rest every so many of the others.
    """
    by_rank = np.argsort(ranks, kind="stable").tolist()
    chosen = by_rank
    if len(by_rank) > PATHS:
        chosen = by_rank[: PATHS // 2] + thinned(by_rank[PATHS // 2 :], PATHS // 2)
    place = {index: rank / max(1, len(by_rank) - 1) for rank, index in enumerate(by_rank)}
    lines = [
        {
            "run": runs[index].number,
            "value": value_of(runs[index], goals),
            "rank": place[index],
            "units": [
                space[name].encode(runs[index].config[name]) if name in runs[index].config else None
                for name in shown
            ],
            "values": [runs[index].config.get(name) for name in shown],
        }
        for index in chosen
    ]
    return {"parameters": list(shown), "lines": lines}


def _seconds(good: Sequence[Trial], predicted: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return what runs took, beside what was expected of them where that is known."""
    return [
        {
            "run": trial.number,
            "budget": trial.budget,
            "seconds": trial.seconds,
            "predicted": predicted.get(trial.number),
        }
        for trial in thinned(good, DOTS)
        if trial.seconds > 0
    ]


def _failures(ended: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the reasons why runs failed, the commonest first, each with one run that it happened to."""
    reasons = Counter(trial.error for trial in ended if trial.error)
    first = {trial.error: trial.number for trial in reversed(ended)}
    return [{"error": error, "runs": count, "run": first[error]} for error, count in reasons.most_common(10)]


def _notes(finished: int, parameters: int, shown: Sequence[str]) -> list[str]:
    notes = []
    if finished > PATHS:
        notes.append(
            f"Of {finished:,} finished runs at most {DOTS} are drawn as points and {PATHS} as lines, the best and "
            "every so many of the others"
        )
    if parameters > len(shown):
        notes.append(f"Of {parameters} parameters the {len(shown)} are drawn that matter most")
    return notes
