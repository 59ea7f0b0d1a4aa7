"""What every benchmark shares: options, the one JSON line, and where results are kept.

def measure(quick: bool) -> Result: ...

if __name__ == "__main__":
    run("measure_aa", measure)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.files import write_json
from paretune.target import fingerprint

RESULTS = Path(__file__).parent / "results"
LARGEST_ARTIFACT = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found."""

    value: float | None
    """The number that the goal is about; None where it could not be had, and `detail` says why."""
    unit: str
    goal: str
    """As the issue states it: "at most 0.3x"."""
    met: bool
    peer: dict[str, Any] | None = None
    """{"name", "value"}: what it is held against."""
    seeds: Sequence[int] = (0,)
    detail: dict[str, Any] = field(default_factory=dict)
    """Anything else, as plain JSON; `artifact` and `baseline` are paths under benchmarks/results."""


def run(name: str, measure: Callable[[bool], Result], arguments: Sequence[str] | None = None) -> None:
    """Parse --quick and --save, measure, print one JSON line last, and keep it where --save asks.

    measure: (quick) -> Result. --save writes `benchmarks/results/NAME.json`, missed goals too.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small honest version, in under 60 seconds")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/{name}.json")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    line = record(name, measure(options.quick), time.monotonic() - start, quick=options.quick)
    if options.save:
        write_json(RESULTS / f"{name}.json", line)
    print(json.dumps(line, allow_nan=False), flush=True)


def record(name: str, result: Result, seconds: float, *, quick: bool) -> dict[str, Any]:
    """Return the JSON line of a result; artifacts that are too large to keep are our own mistake."""
    for key in ("artifact", "baseline"):
        kept = result.detail.get(key)
        assert kept is None or (RESULTS / kept).stat().st_size <= LARGEST_ARTIFACT, f"{kept} is above 2 MB"
    return {
        "benchmark": name,
        "value": result.value,
        "unit": result.unit,
        "goal": result.goal,
        "met": result.met,
        "peer": result.peer,
        "seeds": list(result.seeds),
        "cpu": fingerprint(),
        "seconds": round(seconds, 1),
        "detail": result.detail | {"quick": quick},
    }


def say(text: str) -> None:
    """Print progress to stderr: stdout ends with the JSON line."""
    print(text, file=sys.stderr, flush=True)
