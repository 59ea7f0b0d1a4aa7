"""A study's story: what its page draws and `--json` prints, all of it plain values, thinned where there is much.

Losses of different budgets do not compare, so that what needs one budget (which parameters matter, where the good
runs are) takes the one with most runs: a larger one has but those that were good already, which differ little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from paretune.search._density import columns
from paretune.search._look.importance import density, good_of, importances, places, width_of
from paretune.search._schedule.ladder import Budget, share_of
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Space
from paretune.search._study.storage import LOST, Trial

Array = NDArray[np.float64]
Item = TypeVar("Item")
DOTS = 600
"""Most points of one drawing."""
PATHS = 200
"""Most configurations that are drawn across the parameters, or from budget to budget."""
PARAMETERS = 12
"""Most parameters that are drawn, those that matter most."""
TABLE = 20
"""Runs in the table of the best."""
FEW = 6
"""Values of a number that are all written along its axis."""
PAUSE = 60.0
"""Seconds between the end of a run and the begin of the next, beyond which the study was not at work."""


def story(
    space: Space,
    trials: Sequence[Trial],
    budgets: Sequence[Budget | None],
    *,
    name: str,
    method: str,
    best: Trial | None,
    predicted: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """Return what a study's page shows.

    trials: all of its runs. best: the one that the study found. predicted: seconds that a cost model expected, by
        the number of a run.
    """
    ended = sorted(
        (trial for trial in trials if trial.finished is not None and not trial.error.startswith(LOST)),
        key=lambda trial: (trial.finished, trial.number),
    )
    good = [trial for trial in ended if not trial.error]
    rung, at_rung = _telling(good)
    rows = np.array([space.row(trial.config) for trial in at_rung]).reshape(-1, len(space))
    losses = np.array([trial.loss for trial in at_rung], dtype=np.float64)
    shares = importances(space, rows, losses)
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
        "best": best and best.to_json(),
        "curves": _curves(ended, budgets),
        "rungs": _rungs(good, budgets),
        "promotions": _promotions(good),
        "told_at": {"budget": budgets[rung] if rung < len(budgets) else None, "runs": len(at_rung)},
        "importances": shares,
        "parameters": [_parameter(space, name, trials, rows, losses) for name in shown],
        "coordinates": _coordinates(space, shown, at_rung, losses),
        "seconds": _seconds(good, predicted or {}),
        "table": [trial.to_json() for trial in _ranked(good)[:TABLE]],
        "failures": _failures(ended),
        "notes": _notes(len(good), sum(not isinstance(space[n], Constant) for n in space.names), shown),
    }


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of them at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _ranked(good: Sequence[Trial]) -> list[Trial]:
    """Return finished runs, those on the largest budget first, the best of each first."""
    return sorted(good, key=lambda trial: (-trial.rung, trial.loss, trial.number))


def _telling(good: Sequence[Trial]) -> tuple[int, list[Trial]]:
    """Return the rung with most runs, of equal ones the larger, and its runs."""
    counts = Counter(trial.rung for trial in good)
    rung = max(counts, key=lambda each: (counts[each], each), default=0)
    return rung, [trial for trial in good if trial.rung == rung]


def _curves(ended: Sequence[Trial], budgets: Sequence[Budget | None]) -> list[dict[str, Any]]:
    """Return the best loss so far on each budget, a point for every improvement and one for the end.

    A point is (ended runs, full-run equivalents, seconds, loss).
    """
    points: dict[int, list[tuple[int, float, float, float]]] = {}
    runs, at = 0.0, 0.0
    before = None
    for count, trial in enumerate(ended, 1):
        assert trial.finished is not None and trial.loss is not None
        gap = trial.seconds if before is None else (trial.finished - before).total_seconds()
        at += max(0.0, min(gap, trial.seconds + PAUSE))
        before = trial.finished
        runs += share_of(trial.budget, budgets[-1])
        known = points.setdefault(trial.rung, [])
        if not trial.error and (not known or trial.loss < known[-1][3]):
            known.append((count, runs, at, trial.loss))
    for known in points.values():
        if known:
            known.append((len(ended), runs, at, known[-1][3]))
    return [
        {"budget": budgets[rung], "points": [list(point) for point in known]}
        for rung, known in sorted(points.items(), reverse=True)
        if known
    ]


def _rungs(good: Sequence[Trial], budgets: Sequence[Budget | None]) -> list[dict[str, Any]]:
    """Return each budget's losses: all up to a number, then every so many in the order of their losses."""
    found = []
    for rung, budget in enumerate(budgets):
        losses = sorted(trial.loss for trial in good if trial.rung == rung and trial.loss is not None)
        most = max(2, DOTS // len(budgets))
        found.append({"budget": budget, "runs": len(losses), "losses": thinned(losses, most)})
    return found


def _promotions(good: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return configurations that ran on more than one budget: those that came highest, the best first."""
    by_config: dict[int, dict[int, float]] = {}
    for trial in good:
        assert trial.loss is not None
        by_config.setdefault(trial.config_number, {})[trial.rung] = trial.loss
    several = [(number, known) for number, known in by_config.items() if len(known) > 1]
    several.sort(key=lambda item: (-max(item[1]), item[1][max(item[1])], item[0]))
    return [
        {"config": number, "points": [[rung, known[rung]] for rung in sorted(known)]}
        for number, known in several[:PATHS]
    ]


def _parameter(space: Space, name: str, trials: Sequence[Trial], rows: Array, losses: Array) -> dict[str, Any]:
    """Return what is known of one parameter: its marks, prior, posterior, and what was suggested, in order."""
    parameter, column = space[name], space.names.index(name)
    about = columns(space, 1e-2)
    categories = int(about.categories[column])
    at = places(categories)
    best = rows[good_of(losses), column] if len(rows) else np.empty(0)
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


def _coordinates(space: Space, shown: Sequence[str], runs: Sequence[Trial], losses: Array) -> dict[str, Any]:
    """Return runs of one budget across the parameters; rank: 0 the best, 1 the worst.

    Where there are many, half of what is drawn is the best runs, and the rest every so many of the others.
    """
    order = np.argsort(losses, kind="stable").tolist()
    chosen = order if len(order) <= PATHS else order[: PATHS // 2] + thinned(order[PATHS // 2 :], PATHS // 2)
    place = {index: rank / max(1, len(order) - 1) for rank, index in enumerate(order)}
    lines = [
        {
            "run": runs[index].number,
            "loss": runs[index].loss,
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
