"""idx: the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, gzipped or not.

Two zero bytes, the type, the number of axes, each axis as a big-endian int32, then the values, big-endian.
Source: Y. LeCun, C. Cortes, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paretune.zoo._files import content, damaged

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
EXPECTED = "an idx file (the format of MNIST), gzipped or not"


def idx(path: str | Path) -> np.ndarray:
    """Return the array of an idx file, in the machine's byte order.

    The images of MNIST come as uint8 (60000, 28, 28), its labels as uint8 (60000,). A missing, truncated or
    foreign file is a DataError.
    """
    path = Path(path)
    raw = content(path, EXPECTED)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES:
        raise damaged(path, EXPECTED, f"it begins with {raw[:4].hex(' ') or 'nothing'}, which is no idx header")
    kind, axes = np.dtype(TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise damaged(path, EXPECTED, f"it ends inside the header: {len(raw):,} of {start:,} bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", axes, 4))
    needed = start + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(raw) != needed:
        raise damaged(path, EXPECTED, f"its header promises {shape}, {needed:,} bytes, and it has {len(raw):,}")
    return np.frombuffer(raw, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))
