"""MSE calibration: the range whose grid makes the least expected squared error on what was seen.

Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.1.1, arXiv:2106.08295.
It weighs what clipping loses against what a finer grid gains. It knows nothing of the loss: an outlier that
decides the answer is clipped like any other.
"""

from __future__ import annotations

import numpy as np

from paretune.quantize._grid import affine, round_trip
from paretune.quantize.calibration._histogram import Histogram

FRACTIONS = np.linspace(0.02, 1.0, 99)
"""Of what was seen, tried as the range's end; in steps of 1 %."""


def mse(histogram: Histogram, bits: int = 8) -> tuple[float, float]:
    """Return (low, high) of the unsigned grid with the least squared error over the histogram; holds 0.

    Both ends are shrunk together first, then each by itself: exact where the values have one sign, as after a
    ReLU, and close to the best of all pairs elsewhere.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    values, counts = histogram.centres()
    if not values.size:
        return low, high
    pairs = np.stack([FRACTIONS * low, FRACTIONS * high], axis=1)
    best = _least(pairs, values, counts, bits)
    if low < 0 < high:
        for end, extreme in ((0, low), (1, high), (0, low)):
            pairs = np.repeat(best[None], len(FRACTIONS) + 1, axis=0)
            pairs[1:, end] = FRACTIONS * extreme
            best = _least(pairs, values, counts, bits)
    return float(best[0]), float(best[1])


def _least(pairs: np.ndarray, values: np.ndarray, counts: np.ndarray, bits: int) -> np.ndarray:
    """Return the (low, high) of `pairs` (n, 2) with the least error; the widest of equals."""
    errors = [
        np.dot(counts, np.square(round_trip(values, *affine(low, high, bits), bits) - values))
        for low, high in pairs
    ]
    return np.asarray(pairs[len(errors) - 1 - int(np.argmin(errors[::-1]))])
