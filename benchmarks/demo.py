"""The demo's own numbers: `paretune demo` in a fresh process and an empty cache, read from its `summary.json`.

With --quick its recipe is run with a third of the epochs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import RESULTS, Result, run, say
from paretune.zoo._demo import RECIPE

SECONDS, LATENCY, SIZE, DROP = 180.0, 0.3, 0.1, 1.0


def measure(quick: bool) -> Result:
    """Run the demo; the value is its seconds, and all four promises must hold."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, summary = demo(Path(folder), quick)
        first, best = summary["candidates"][0], chosen(summary)
        kept = None if quick else keep(Path(folder) / "run", best)
    base = first["metric"]["value"]
    drop = 100 * (base - best["metric"]["value"])
    latency, size = best["latency"]["ratio"], best["bytes"] / first["bytes"]
    return Result(
        value=round(seconds, 1),
        unit="s",
        goal=f"under {SECONDS:.0f} s, latency at most {LATENCY}x, bytes at most {SIZE}x, {DROP} point lost",
        met=seconds < SECONDS and latency <= LATENCY and size <= SIZE and drop <= DROP,
        detail={
            "latency_ratio": [best["latency"][key] for key in ("ratio", "ratio_low", "ratio_high")],
            "bytes_ratio": round(size, 4),
            "drop_points": round(drop, 3),
            "best": summary["best"],
            "candidates": [short(row) for row in summary["candidates"]],
            "test": best.get("test"),
            **({"artifact": kept} if kept else {}),
        },
    )


def demo(folder: Path, quick: bool) -> tuple[float, dict[str, Any]]:
    """Return how long the demo took and what it found."""
    out = folder / "run"
    short_one = ["run", str(RECIPE), "--set", "train.epochs=4", "--set", "distill.epochs=4"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "paretune", *(short_one if quick else ["demo"]), "--out", str(out)],
        env={**os.environ, "PARETUNE_CACHE": str(folder / "cache")},
        stdout=sys.stderr,
        check=False,
    )
    seconds = time.perf_counter() - start
    say(f"exit code {done.returncode} after {seconds:.0f} s")
    if done.returncode not in (0, 3):  # 3 is a demo that finished and missed its constraints: a result
        raise SystemExit(f"the demo failed with exit code {done.returncode}; there is nothing to report")
    return seconds, json.loads((out / "summary.json").read_text())


def chosen(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the chosen candidate, or the last one where none holds the constraints: what was reached."""
    rows: list[dict[str, Any]] = summary["candidates"]
    return next((row for row in rows if row["name"] == summary["best"]), rows[-1])


def keep(out: Path, row: dict[str, Any]) -> str:
    """Copy the file that was measured beside the results; return its path there."""
    target = RESULTS / "demo.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / row["artifact"], target)
    return target.name


def short(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "metric", "bytes", "macs", "params", "train_seconds")
    latency = {key: row["latency"][key] for key in ("median_ms", "ratio", "ratio_low", "ratio_high", "verdict")}
    return {key: row[key] for key in kept if key in row} | {"latency": latency}


if __name__ == "__main__":
    run("demo", measure)
