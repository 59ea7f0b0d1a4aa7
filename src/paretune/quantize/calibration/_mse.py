"""MSE calibration: the range whose grid makes the least expected squared error on what was seen.

Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.1.1, arXiv:2106.08295.
It weighs what clipping loses against what a finer grid gains. It knows nothing of the loss: an outlier that
decides the answer is clipped like any other. Within a bin values are taken as evenly spread, and the error is
integrated exactly: with the bins' centres alone, steps of 4 or 5 bins would look better than they are.
"""

from __future__ import annotations

import numpy as np

from paretune.quantize._grid import affine
from paretune.quantize.calibration._histogram import Histogram

FRACTIONS = np.linspace(0.02, 1.0, 50)
"""Of what was seen, tried as the range's end; in steps of 2 %."""


def mse(histogram: Histogram, bits: int = 8) -> tuple[float, float]:
    """Return (low, high) of the unsigned grid with the least squared error over the histogram; holds 0.

    Both ends are shrunk together first, then each by itself: exact where the values have one sign, as after a
    ReLU, and close to the best of all pairs elsewhere.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    filled = np.flatnonzero(histogram.counts)
    if not filled.size:
        return low, high
    counts = histogram.counts[filled[0] : filled[-1] + 1]
    edges = histogram.edges()[filled[0] : filled[-1] + 2]
    pairs = np.stack([FRACTIONS * low, FRACTIONS * high], axis=1)
    best = _least(pairs, edges, counts, bits)
    if low < 0 < high:
        for end, extreme in ((0, low), (1, high), (0, low)):
            pairs = np.repeat(best[None], len(FRACTIONS) + 1, axis=0)
            pairs[1:, end] = FRACTIONS * extreme
            best = _least(pairs, edges, counts, bits)
    return float(best[0]), float(best[1])


def expected_error(edges: np.ndarray, counts: np.ndarray, low: float, high: float, bits: int = 8) -> float:
    """Return the sum of squared rounding and clipping errors on the grid over [low, high].

    edges: (n + 1,), counts: (n,). With u in steps and r its integer, (u - r)^2 has the antiderivative
    r / 12 + (u - r)^3 / 3, beyond the ends of the grid too, where r stays at the last integer.
    """
    scale, zero_point = affine(low, high, bits)
    steps = edges / float(scale) + zero_point
    integers = np.clip(np.rint(steps), 0, 2**bits - 1)
    integral = integers / 12 + (steps - integers) ** 3 / 3
    return float(counts @ (np.diff(integral) / np.diff(steps)) * float(scale) ** 2)


def _least(pairs: np.ndarray, edges: np.ndarray, counts: np.ndarray, bits: int) -> np.ndarray:
    """Return the (low, high) of `pairs` (n, 2) with the least error; the widest of equals."""
    errors = [expected_error(edges, counts, low, high, bits) for low, high in pairs]
    return np.asarray(pairs[len(errors) - 1 - int(np.argmin(errors[::-1]))])
