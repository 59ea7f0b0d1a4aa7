"""Percentile calibration: the range that holds a given percentage of what was seen.

Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
2020, section 4 (99.9 to 99.9999 %), arXiv:2004.09602.
Robust against a few outliers; blind to how much they matter: where the tail carries the answer, use `mse`.
"""

from __future__ import annotations

import numpy as np

from paretune.errors import InputError
from paretune.quantize.calibration._histogram import Histogram


def percentile(histogram: Histogram, percentile: float = 99.99) -> tuple[float, float]:
    """Return (low, high) that hold `percentile` % of all values, half of the rest beyond either end.

    Exact to one bin of the histogram, rounded outwards, never beyond what was seen; holds 0.
    """
    if not 50 < percentile <= 100:
        raise InputError(
            f"calibration percentile={percentile} must be above 50 and at most 100; "
            "99.99 clips one value in 10,000"
        )
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    tail = int(histogram.total * (100 - percentile) / 200)
    if tail == 0:
        return low, high
    edges = histogram.edges()
    counts = histogram.counts.copy()
    if histogram.zeros:
        counts[int(np.clip(-histogram.first, 0, len(counts) - 1))] += histogram.zeros
    # the bin that holds the value number `tail` from either end; what lies beyond it is cut off
    lower = edges[:-1][np.searchsorted(np.cumsum(counts), tail, side="right")]
    upper = edges[1:][::-1][np.searchsorted(np.cumsum(counts[::-1]), tail, side="right")]
    return float(np.clip(lower, low, 0.0)), float(np.clip(upper, 0.0, high))
