"""Images as they are stored -> images as a network takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float], scale: float = 255.0) -> np.ndarray:
    """Return (images / scale - mean) / std as float32 in the layout (n, channels, height, width).

    images: (n, height, width) or (n, height, width, channels), of any type; mean, std: one number a channel.

    >>> normalise(np.full((1, 2, 2), 255, np.uint8), mean=[0.5], std=[0.25]).tolist()
    [[[[2.0, 2.0], [2.0, 2.0]]]]
    """
    scaled = (images if images.ndim == 4 else images[..., None]).astype(np.float32) / np.float32(scale)
    standard = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(standard.transpose(0, 3, 1, 2), dtype=np.float32)
