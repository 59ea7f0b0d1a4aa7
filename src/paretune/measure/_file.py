"""Everything that can be measured of a file without its task: what `paretune measure` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.artifact import Artifact
from paretune.measure._latency import latency
from paretune.measure._process import fresh_process
from paretune.target import Target


def file(
    path: Path | str,
    *,
    against: Path | str | None = None,
    target: Target | None = None,
    seconds: float = 2.0,
    inputs: Any = None,
) -> dict[str, Any]:
    """Return a file's latency, bytes, load time and peak memory as plain JSON.

    against: a baseline, timed in the same rounds; then latency has its ratio and verdict, and `baseline` the same
    measurements of that file. Keys: file, latency, bytes, load_ms, peak_memory_bytes, target [, baseline].
    """
    target = target or Target()
    paths = [Path(path)] if against is None else [Path(against), Path(path)]
    timed = latency(paths, target, seconds=seconds, inputs=inputs)
    seen = [
        {"file": str(one), "latency": time.to_json(), "bytes": size(one)}
        | fresh_process(one, target, inputs=inputs)._asdict()
        for one, time in zip(paths, timed, strict=True)
    ]
    result = seen[-1] | {"target": target.to_json()}
    return result if against is None else result | {"baseline": seen[0]}


def size(path: Path | str) -> int:
    """Return a file's bytes on disk, weights stored beside it included."""
    return Artifact(Path(path)).bytes
