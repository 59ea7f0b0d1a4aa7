"""A histogram that grows with its data: one pass, fixed memory.

Calibrators that keep every activation need hundreds of gigabytes (onnxruntime #10503, #21979). Here each tensor
costs `BINS` counters however many samples are seen. Bin edges are whole multiples of the bin width, so that the
range grows by merging neighbouring bins in pairs (the width doubles): counts move exactly, nothing is
interpolated. The smallest and largest value are kept exactly beside the counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from paretune.errors import InputError

BINS = 4096
"""Between BINS / 4 and BINS of them span the data: at least four for each step of an 8-bit grid."""


@dataclass
class Histogram:
    """Counts of what was seen of one tensor: bin i covers [(first + i) * width, (first + i + 1) * width)."""

    width: float = 0.0
    """Of one bin, in the tensor's unit; 0 until a value other than 0 was seen."""
    first: int = 0
    """The lower edge of bin 0, in widths."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    low: float = np.inf
    """The smallest value seen, exactly."""
    high: float = -np.inf
    zeros: int = 0
    """Values that are exactly 0, kept apart: after a ReLU they are half of everything and cost no error."""

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum()) + self.zeros

    def add(self, values: np.ndarray) -> None:
        """Count an array of any shape; NaN or infinity is an InputError and nothing is counted."""
        flat = np.asarray(values, dtype=np.float64).ravel()
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError("NaN or infinite values cannot be calibrated")
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = flat[flat != 0]
        self.zeros += int(np.size(values)) - flat.size
        if flat.size:
            self._cover(float(flat.min()), float(flat.max()))
            index = np.floor(flat / self.width).astype(np.int64) - self.first
            self.counts += np.bincount(index, minlength=BINS)

    def edges(self) -> np.ndarray:
        """Return the (BINS + 1,) bin edges."""
        return (self.first + np.arange(BINS + 1)) * self.width

    def _cover(self, low: float, high: float) -> None:
        """Double the bin width until [low, high] and all that was counted fit, then place the bins."""
        if self.width == 0:
            self.width = max(high - low, abs(high), abs(low)) / (BINS // 2)
            self.first = int(np.floor(low / self.width))
        filled = np.flatnonzero(self.counts)
        start, end = (self.first + filled[0], self.first + filled[-1]) if filled.size else (np.inf, -np.inf)
        while True:
            first = min(start, np.floor(low / self.width))
            last = max(end, np.floor(high / self.width))
            if last - first < BINS:
                break
            self._merge_pairs()
            start, end = start // 2, end // 2
        self._shift(int(first))

    def _merge_pairs(self) -> None:
        """Double the width; bins 2k and 2k + 1 (counted from value 0) become bin k."""
        target = (self.first + np.arange(BINS)) // 2
        first = self.first // 2
        self.counts = np.bincount(target - first, weights=self.counts, minlength=BINS).astype(np.int64)
        self.first, self.width = first, self.width * 2

    def _shift(self, first: int) -> None:
        """Let bin 0 be bin `first`; what was counted fits, as `_cover` made sure."""
        moved = np.zeros(BINS, dtype=np.int64)
        filled = np.flatnonzero(self.counts)
        moved[filled + self.first - first] = self.counts[filled]
        self.counts, self.first = moved, first
