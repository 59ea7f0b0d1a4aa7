"""What a run reports: `summary.json`, which candidates hold the constraints, and which one is best.

Plain dictionaries in and out: everything here can be redone from a run folder, without torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from paretune.errors import RecipeError
from paretune.recipe import LATENCY_UNITS, SIZE_UNITS, Constraints, amount

SCHEMA = 1
Row = dict[str, Any]
AS_SMALL = 1.01
"""Files whose sizes differ by less are of one size: names and graph attributes alone make up as much."""
NO_WIN = "neither faster nor smaller than the baseline"


def summary(
    task: str, target: dict[str, Any], constraints: dict[str, Any], rows: Sequence[Row], best: str | None
) -> Row:
    """Return the content of `summary.json`; the first row is the baseline."""
    return {
        "schema": SCHEMA,
        "task": task,
        "target": target,
        "constraints": constraints,
        "candidates": list(rows),
        "best": best,
    }


def violations(row: Row, baseline: Row, constraints: Constraints) -> list[str]:
    """Return each constraint that a candidate does not hold, as `latency 0.61x, at most 0.5x`.

    A drop that the samples cannot decide ("cannot tell") counts as held where the drop seen is within the bound:
    the verdict stands beside it in every report.
    """
    parts = (
        _too_much_drop(row, constraints.max_drop),
        _too_slow(row, constraints.max_latency),
        _too_large(row, baseline, constraints.max_size),
        *_too_different(row, constraints),
    )
    return [text for text in parts if text]


def choose(rows: Sequence[Row], constraints: Constraints) -> str | None:
    """Return the name of the fastest candidate that holds every constraint, or None.

    Of those whose latency cannot be told from the fastest's, the smallest; of those as small, the one with the
    best metric: noise alone does not decide between models of one shape.
    Not the baseline, unless it stands alone; a candidate that is neither faster nor smaller than the baseline is
    no win and is not chosen.
    """
    baseline = rows[0]
    held = [row for row in rows[1:] if not violations(row, baseline, constraints) and _wins(row, baseline)]
    if not held:
        alone = len(rows) == 1 and not violations(baseline, baseline, constraints)
        return baseline["name"] if alone else None
    fastest = min((row["latency"] for row in held), key=lambda latency: latency["ratio"])
    bound = fastest.get("ratio_high", fastest["ratio"])
    held = [row for row in held if row["latency"].get("ratio_low", row["latency"]["ratio"]) <= bound]
    smallest = min(row["bytes"] for row in held)
    return str(max((row for row in held if row["bytes"] <= AS_SMALL * smallest), key=_goodness)["name"])


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the candidates that no other beats in metric, latency and bytes at once."""
    return [row for row in rows if not any(_dominates(other, row) for other in rows if other is not row)]


def shortfall(rows: Sequence[Row], constraints: Constraints) -> str:
    """Say what the best that was reached is, and what it lacks, for a run that found nothing feasible."""
    if len(rows) == 1:
        missing = "; ".join(violations(rows[0], rows[0], constraints))
        return f"only the baseline was measured: {missing or 'nothing was tried'}"
    closest = min(
        rows[1:],
        key=lambda row: (
            len(violations(row, rows[0], constraints)),
            not _wins(row, rows[0]),
            row["latency"]["ratio"],
        ),
    )
    lacks = violations(closest, rows[0], constraints) or [_unconfirmed(closest, rows[0], constraints) or NO_WIN]
    reached = f"the best that was reached is '{closest['name']}'"
    return f"no candidate holds the constraints; {reached}: {'; '.join(lacks)}"


def _unconfirmed(row: Row, baseline: Row, constraints: Constraints) -> str | None:
    """Return what the test data said against a candidate that held on validation data."""
    broken = violations(row | (row.get("test") or {}), baseline, constraints)
    return f"held on validation data, but not on test data: {'; '.join(broken)}" if broken else None


def seconds(budget: str | float) -> float:
    """Return the seconds of "20min", "90s", "1.5h", or a plain number of seconds.

    >>> seconds("1.5min")
    90.0
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|sec|min|m|h)?\s*", str(budget))
    value = float(match.group(1)) if match else 0.0
    if value <= 0 or isinstance(budget, bool):
        raise RecipeError(f"budget={budget!r} is no length of time above 0; write '20min', '90s' or '1.5h'")
    assert match is not None
    return value * {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}[match.group(2) or "s"]


def _wins(row: Row, baseline: Row) -> bool:
    return bool(row["latency"]["verdict"] == "faster" or row["bytes"] < baseline["bytes"])


def _dominates(a: Row, b: Row) -> bool:
    better = [_goodness(x) for x in (a, b)]
    return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]


def _goodness(row: Row) -> tuple[float, float, float]:
    sign = 1.0 if row["metric"].get("greater_is_better", True) else -1.0
    return sign * row["metric"]["value"], -row["latency"]["ratio"], -float(row["bytes"])


def _too_much_drop(row: Row, bound: float | None) -> str | None:
    decision = row.get("decision")
    if bound is None or decision is None:
        return None
    if decision["verdict"] == "not within" or decision["drop"] > bound:
        return f"{decision['drop']:.2f} {decision['unit']} lost, at most {bound:g} ({decision['verdict']})"
    return None


def _too_slow(row: Row, bound: str | float | None) -> str | None:
    if bound is None:
        return None
    limit, relative = amount(bound, LATENCY_UNITS, "max_latency")
    seen = row["latency"]["ratio"] if relative else row["latency"]["median_ms"]
    unit = "x" if relative else " ms"
    sure = relative and row["latency"].get("ratio_high", float("inf")) <= limit  # noise and all, within the bound
    if row["latency"]["verdict"] == "too noisy" and not sure:
        return f"latency about {seen:.3g}{unit}, but too noisy to say"
    return f"latency {seen:.3g}{unit}, at most {limit:g}{unit}" if seen > limit else None


def _too_large(row: Row, baseline: Row, bound: str | float | None) -> str | None:
    if bound is None:
        return None
    limit, relative = amount(bound, SIZE_UNITS, "max_size")
    seen = row["bytes"] / baseline["bytes"] if relative else row["bytes"]
    unit = "x" if relative else " bytes"
    return f"size {seen:.4g}{unit}, at most {limit:g}{unit}" if seen > limit else None


def _too_different(row: Row, constraints: Constraints) -> list[str]:
    """Return what exceeds the bounds on flips and on the worst class; where that is unknown, no bound holds."""
    behaviour = row.get("behaviour")
    if behaviour is None:  # the baseline
        return []
    worst = behaviour.get("worst_class") or {}
    asked = (
        ("flips", behaviour.get("flips"), constraints.max_flips, "%"),
        ("worst class lost", worst.get("drop"), constraints.max_class_drop, " points"),
    )
    return [
        f"{what} {'unknown, as this is no classification' if seen is None else f'{seen:.2f}{unit}'}, "
        f"at most {bound:g}{unit}"
        for what, seen, bound, unit in asked
        if bound is not None and (seen is None or seen > bound)
    ]
