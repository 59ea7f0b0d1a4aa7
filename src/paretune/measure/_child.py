"""What runs in the fresh process of `_process.fresh_process`; nothing of torch may be imported from here.

argv: file, runtime, threads, batch, an .npz of arrays `input/NAME`. Prints one JSON line: load_ms and
peak_memory_bytes, or error.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

INPUT = "input/"


def main(path: str, runtime: str, threads: str, batch: str, inputs: str) -> None:
    """Load the file, run it, and print what that took."""
    from paretune.measure._engine import open_engine
    from paretune.target import Target

    target = Target(runtime=runtime, threads=int(threads), batch=int(batch))
    __import__(f"paretune.measure._{runtime}")
    with np.load(inputs, allow_pickle=False) as stored:
        feeds = {name.removeprefix(INPUT): stored[name] for name in stored.files}
    before = _forget_peak()
    start = time.perf_counter()
    engine = open_engine(Path(path), target)
    load_ms = (time.perf_counter() - start) * 1e3
    call = engine.bind(feeds)
    for _ in range(3):
        call()
    print(json.dumps({"load_ms": load_ms, "peak_memory_bytes": max(_peak() - before, 0)}))


def _forget_peak() -> int:
    """Reset the peak to the memory held now, where Linux lets us; return that memory in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the peak resident memory in bytes.

    From /proc where there is one: `ru_maxrss` outlives exec, and would show the size of whoever started us.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever it is, the one who started us tells it
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(json.dumps({"error": lines[0][:300]}))
