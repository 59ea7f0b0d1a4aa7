"""Min-max calibration: the range is everything that was seen.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3.1, arXiv:1712.05877.
Nothing that was calibrated on is clipped; one outlier stretches the grid for everyone: then `percentile` or `mse`.
"""

from __future__ import annotations

from paretune.quantize.calibration._histogram import Histogram


def minmax(histogram: Histogram) -> tuple[float, float]:
    """Return (low, high): the smallest and the largest value seen, stretched to hold 0.

    >>> histogram = Histogram()
    >>> histogram.add([1.0, 3.0])
    >>> minmax(histogram)
    (0.0, 3.0)
    """
    return min(histogram.low, 0.0), max(histogram.high, 0.0)
