"""How much a study may do: runs, full-run equivalents, seconds of wall time, seconds of work.

The first one reached ends it, whatever the number of workers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, final

from paretune.errors import InputError, is_number, nearest
from paretune.search._space.numerals import NUMBER

UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
Spec = int | float | str | Mapping[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a study; None is no limit."""

    trials: int | None = None
    """Runs, each of a configuration on a budget."""
    runs: float | None = None
    """Full runs: those on smaller budgets count as the part that they are."""
    wall: float | None = None
    """Seconds since the study was begun or resumed."""
    work: float | None = None
    """Seconds that runs took, added up over workers."""

    def reached(self, *, trials: int, runs: float, wall: float, work: float) -> str | None:
        """Return which limit is reached, in words, or None."""
        seen = {"trials": trials, "runs": runs, "wall": wall, "work": work}
        for name, value in seen.items():
            limit = getattr(self, name)
            if limit is not None and value >= limit - 1e-9:
                return f"{name}={limit:g}"
        return None


def limits_of(spec: Spec) -> Limits:
    """Return what a user wrote: 100 (runs), "30min" (wall time), or {"wall": "2h", "trials": 500}.

    {"until": "2026-12-01 08:00"} is a limit of wall time, too: what is left until then, of this computer's clock.

    >>> limits_of("30min").wall, limits_of(100).trials, limits_of({"runs": 20, "work": "1h"}).work
    (1800.0, 100, 3600.0)
    """
    if isinstance(spec, Limits):
        return spec
    if isinstance(spec, str):
        if re.fullmatch(rf"\s*{NUMBER}\s*", spec.lower()):
            number = spec.strip()
            raise InputError(f"budget={spec!r}: of what? Write runs without quotes, a time as '{number}s'")
        return Limits(wall=seconds(spec, "budget"))
    if is_number(spec):
        return Limits(trials=_count(spec, "budget"))
    if not isinstance(spec, Mapping) or not spec:
        raise InputError(
            f"budget={spec!r} must be a number of runs, a time as '30min', or {{wall: 30min, trials: 200}}"
        )
    names = [*(field.name for field in fields(Limits)), "until"]
    found: dict[str, Any] = {}
    for name, value in spec.items():
        if name not in names:
            raise InputError(f"budget: no limit '{name}'.{nearest(str(name), names)} There are {', '.join(names)}")
        where = f"budget: {name}"
        if name == "trials":
            found[name] = _count(value, where)
        elif name == "runs":
            if not is_number(value) or not 0 < value < math.inf:
                raise InputError(f"{where}={value!r} must be a number above 0: so many full runs")
            found[name] = float(value)
        elif name == "until":
            found["wall"] = min(found.get("wall", math.inf), _until(value, where))
        else:
            found[name] = min(found.get(name, math.inf), seconds(value, where))
    return Limits(**found)


def _until(value: Any, where: str) -> float:
    """Return the seconds until a date and time; YAML reads one without quotes as such."""
    try:
        found = datetime.fromisoformat(str(value)) if isinstance(value, str | date) else None
    except ValueError:
        found = None
    if found is None:
        raise InputError(f"{where}={value!r} must be a date and time as '2026-12-01 08:00'")
    now = datetime.now(found.tzinfo)
    if found <= now:
        raise InputError(f"{where}='{value}' is in the past (it is {now:%Y-%m-%d %H:%M} now); give a later time")
    return (found - now).total_seconds()


def seconds(value: Any, where: str) -> float:
    """Return the seconds of "30min", "1.5h" or a number of seconds.

    >>> seconds("1.5h", "budget")
    5400.0
    """
    found = float(value) if is_number(value) else math.nan
    if isinstance(value, str) and (match := re.fullmatch(rf"\s*({NUMBER})\s*([a-z]*)\s*", value.lower())):
        number, unit = match.groups()
        if unit and unit not in UNITS:
            raise InputError(f"{where}={value!r}: no unit '{unit}'.{nearest(unit, UNITS)} Write s, min, h or d")
        found = float(number) * UNITS.get(unit or "s", 1.0)
    if not 0 < found < math.inf:
        raise InputError(f"{where}={value!r} must be a time above 0, as '30min', '2h' or '45s'")
    return found


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{where}={value!r} must be a whole number of runs, at least 1")
    return value
