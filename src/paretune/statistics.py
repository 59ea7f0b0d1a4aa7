"""Intervals and paired tests, on arrays."""

from __future__ import annotations

import numpy as np

from paretune.metrics import Metric


def metric_interval(metric: Metric, rows: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a metric over samples. (Placeholder: the measure family's author replaces it.)"""
    raise NotImplementedError
