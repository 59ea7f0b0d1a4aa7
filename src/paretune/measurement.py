"""A `Measurement`: what was seen of one candidate, each number with the interval it is known to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from paretune.metrics import Metric

Verdict = Literal["faster", "same", "slower", "too noisy"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A metric's value on a data set, with what each sample contributed to it."""

    metric: Metric
    rows: np.ndarray
    """(samples, columns) float32: see `Metric.rows`."""
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    predicted: np.ndarray | None = None
    """(samples,) the predicted class, where the output is (samples, classes) and targets are class numbers."""
    target: np.ndarray | None = None
    """(samples,) the right class."""
    confidence: np.ndarray | None = None
    """(samples,) the softmax probability of the predicted class."""

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the entry `metric` of `summary.json`."""
        return {
            "name": self.metric.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "greater_is_better": self.metric.greater_is_better,
            "fraction": self.metric.fraction,
        }


@dataclass(frozen=True)
class Latency:
    """Seconds per call of one file on the target, and its ratio to a baseline timed in the same rounds."""

    median_ms: float
    p99_ms: float
    min_ms: float
    ratio: float = 1.0
    """Median over rounds of candidate / baseline; 1 for the baseline itself."""
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    """Ends of the 95 % bootstrap interval of the ratio."""
    verdict: Verdict | None = None
    """None for the baseline."""
    rounds: int = 0
    load_average: float = 0.0
    """The machine's 1-minute load while timing."""
    noise: float = 1.0
    """Median / minimum of the baseline: above 1.2 no verdict is given."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry `latency` of `summary.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured of one artifact."""

    metric: Evaluation
    latency: Latency
    bytes: int
    """On disk, with whatever lies beside the file."""
    params: int
    macs: int
    """Multiply-accumulates of one sample."""
    peak_memory_bytes: int
    """Peak resident memory of a fresh process that loads the file and runs it, above the bare runtime's."""
    load_ms: float
    """Milliseconds to create the session in a fresh process."""

    def to_json(self) -> dict[str, Any]:
        """Return the measured fields of a candidate in `summary.json`."""
        return {
            "metric": self.metric.to_json(),
            "latency": self.latency.to_json(),
            "bytes": self.bytes,
            "params": self.params,
            "macs": self.macs,
            "peak_memory_bytes": self.peak_memory_bytes,
            "load_ms": self.load_ms,
        }
