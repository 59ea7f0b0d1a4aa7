"""How long `paretune --help` and `import paretune` take, each in a fresh process.

The goal is about the slower of the two medians. Python's own start is timed beside them: nothing can be faster.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from _common import Result, run, say

LIMIT = 0.3
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import paretune"],
    "help": [sys.executable, "-m", "paretune", "--help"],
}
HEAVY = ("torch", "onnxruntime", "onnx")


def measure(quick: bool) -> Result:
    """Time the three commands in interleaved rounds."""
    rounds = 10 if quick else 40
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)  # fills the disk cache and writes .pyc files
    for index in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
        say(f"round {index + 1} of {rounds}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    slower = max(medians["import"], medians["help"])
    loaded = heavy_modules()
    return Result(
        value=round(slower, 4),
        unit="s",
        goal=f"below {LIMIT} s, torch not imported",
        met=slower < LIMIT and not loaded,
        peer={"name": "python -c pass", "value": round(medians["python"], 4)},
        detail={
            "median_s": {name: round(value, 4) for name, value in medians.items()},
            "max_s": {name: round(max(values), 4) for name, values in times.items()},
            "rounds": rounds,
            "heavy_modules_after_import": loaded,
        },
    )


def seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def heavy_modules() -> list[str]:
    program = f"import sys, paretune; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()


if __name__ == "__main__":
    run("startup", measure)
