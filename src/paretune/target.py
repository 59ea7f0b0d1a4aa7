"""A `Target`: where the model will run, and what that machine is."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paretune.errors import InputError, nearest

RUNTIMES = ("onnxruntime",)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A runtime with its threads and batch; latencies are per call at that batch."""

    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise InputError(
                f"target: no runtime '{self.runtime}'.{nearest(self.runtime, RUNTIMES)} "
                f"Runtimes here: {', '.join(RUNTIMES)}"
            )
        for name in ("threads", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"target: {name}={getattr(self, name)!r} must be a whole number of at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the target and the machine it was seen on, as `summary.json` holds them."""
        return {**asdict(self), "machine": fingerprint()}


@cache
def fingerprint() -> dict[str, Any]:
    """Return what decides speed here: architecture, model name, instruction flags and their hash, cores.

    The hash is over the flags, not the marketing name: two machines of one hash run the same kernels.
    """
    flags = sorted(_cpu_field("flags") or _cpu_field("Features"))
    relevant = [flag for flag in flags if flag.startswith(("avx", "amx", "fma", "sse4", "asimd", "sve", "f16c"))]
    return {
        "architecture": platform.machine(),
        "name": " ".join(_cpu_field("model name")) or platform.processor() or "unknown",
        "flags": relevant,
        "flags_hash": hashlib.sha256(" ".join(relevant).encode()).hexdigest()[:12],
        "cores": os.cpu_count() or 1,
        "system": platform.system(),
    }


def _cpu_field(name: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.split(":", 1)[1].split() for line in lines if line.split(":")[0].strip() == name), [])
