"""CIFAR-10, from a folder in one of two layouts.

*Binary*, as published (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009):
`data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`; each image is its label in one byte, then 1,024 red,
1,024 green and 1,024 blue bytes.

*Planes*, a third smaller than npz: `train_1.bz2` to `train_5.bz2`, `test.bz2` and `labels.npz` (`train`, `test`);
each shard is the planes G, R-G, B-G modulo 256, each differenced along x and then along y, then bz2.

The "python" batches are pickles: opening one runs whatever it holds, so they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paretune.errors import DataError
from paretune.zoo._files import content, damaged
from paretune.zoo._npz import npz

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
PLANES = {"train": [f"train_{i}.bz2" for i in range(1, 6)], "test": ["test.bz2"]}
RECORD = 1 + 3 * 32 * 32


def cifar10(
    folder: str | Path, splits: Sequence[str] = ("train", "test")
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {split: (images, labels)}: images uint8 (n, 32, 32, 3) RGB, labels uint8 (n,), in the original order.

    splits: which of train (50,000) and test (10,000) to read. A folder in neither layout, or a damaged file in it,
    is a DataError.
    """
    folder = Path(folder)
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if "labels.npz" in names:
        labels = npz(folder / "labels.npz", splits)
        return {split: _planes(folder, split, labels[split]) for split in splits}
    if any(name in names for split in splits for name in BINARY[split]):
        return {split: _binary(folder, split) for split in splits}
    pickles = (
        " It holds the pickled version, and opening a pickle runs its code." if "data_batch_1" in names else ""
    )
    raise DataError(
        f"{folder} holds no CIFAR-10 in a layout that can be read.{pickles} Expected data_batch_1.bin ... "
        "test_batch.bin (the published binary version), or train_1.bz2 ... test.bz2 with labels.npz"
    )


def _planes(folder: Path, split: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate([_decode(folder / name) for name in PLANES[split]])
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: {len(images):,} {split} images and {len(labels):,} labels; fetch the folder again"
        )
    return images, labels


def _decode(path: Path) -> np.ndarray:
    """Return one shard of planes as uint8 (n, 32, 32, 3)."""
    expected = "a shard of CIFAR-10 as three planes of 32x32 bytes, bz2"
    raw = content(path, expected)
    if not raw or len(raw) % (RECORD - 1):
        raise damaged(path, expected, f"{len(raw):,} bytes is no whole number of images")
    planes = np.frombuffer(raw, np.uint8).reshape(3, -1, 32, 32)
    green, red, blue = planes.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)  # red and blue less green
    return np.stack([red + green, green, blue + green], axis=-1)


def _binary(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    expected = "a batch of the binary version of CIFAR-10: records of a label and 3x32x32 bytes"
    batches = []
    for name in BINARY[split]:
        raw = content(folder / name, expected)
        if not raw or len(raw) % RECORD:
            raise damaged(
                folder / name, expected, f"{len(raw):,} bytes is no whole number of {RECORD}-byte records"
            )
        batches.append(np.frombuffer(raw, np.uint8).reshape(-1, RECORD))
        if batches[-1][:, 0].max() >= len(CLASSES):
            raise damaged(folder / name, expected, f"it has label {batches[-1][:, 0].max()}, the largest is 9")
    records = np.concatenate(batches)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()
