"""`paretune demo` keeps its promises, in a fresh process with an empty cache."""

import json
import os
import subprocess
import sys
import time


def test_the_demo_keeps_its_promises(tmp_path):
    out = tmp_path / "run"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "paretune", "demo", "--out", str(out)],
        env={**os.environ, "PARETUNE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert seconds < 180
    summary = json.loads((out / "summary.json").read_text())
    rows = {row["name"]: row for row in summary["candidates"]}
    assert list(rows) == ["baseline", "pruned", "distilled", "quantized"]
    base, best = rows["baseline"], rows[summary["best"]]
    assert base["metric"]["value"] > 0.97  # a real model, not one that is easy to match
    assert best["latency"]["ratio"] <= 0.3
    assert best["bytes"] <= 0.1 * base["bytes"]
    assert best["decision"]["drop"] <= 1.0
    assert best["test"]["decision"]["drop"] <= 1.0
    assert (out / best["artifact"]).stat().st_size == best["bytes"]
    assert (out / "report.html").stat().st_size < 1_000_000
    for name in rows:  # the table at the end
        assert name in done.stdout
    assert "epoch 1 of 12" in done.stderr  # progress in plain lines: this is no terminal
    assert "\x1b" not in done.stdout + done.stderr
