"""A folder of images with one sub-folder a class: `cats/1.png`, `dogs/2.jpg`.

PGM and PPM (binary, 8 bit) are read here; every other format, and resizing, needs Pillow.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from paretune.errors import DataError
from paretune.zoo._files import content, damaged

NETPBM = (".pgm", ".ppm")
SUFFIXES = (*NETPBM, ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
HEADER = re.compile(rb"(P[56])(?:\s+(?:#[^\n]*\n\s*)*)(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s")
EXPECTED = "a binary PGM or PPM image of 8 bits"


def image_folder(
    folder: str | Path, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return (images uint8 (n, height, width, 3) RGB, labels int64 (n,), class names).

    Classes are the sub-folders in sorted order, images within one in sorted order; files that are no images are
    passed over. size: (height, width) to resize to, bilinear; without it all images must be of one size. No class,
    an empty class, a damaged image or unlike sizes is a DataError.
    """
    folder = Path(folder)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(
            f"{folder} has no sub-folders. Expected one a class, such as "
            f"{folder / 'cats' / '1.png'}; check the path"
        )
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}); every sub-folder is a class: "
                "put images in it, or remove it"
            )
        for path in paths:
            images.append(_read(path, size))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise DataError(
                    f"{path} is {images[-1].shape[0]}x{images[-1].shape[1]}, the images before it are "
                    f"{images[0].shape[0]}x{images[0].shape[1]}; give size=(height, width) to resize them all"
                )
    return np.stack(images), np.asarray(labels, np.int64), tuple(classes)


def _read(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    if path.suffix.lower() in NETPBM and size is None:
        return _netpbm(path)
    pillow = _pillow(path, size)
    try:
        with pillow.open(path) as image:
            rgb = image.convert("RGB")
            return np.asarray(rgb if size is None else rgb.resize((size[1], size[0]), pillow.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(path, "an image that Pillow can read", str(error)) from error


def _netpbm(path: Path) -> np.ndarray:
    """Return a binary PGM or PPM as uint8 (height, width, 3)."""
    raw = content(path, EXPECTED)
    match = HEADER.match(raw)
    if match is None:
        raise damaged(path, EXPECTED, f"it begins with {raw[:8]!r}, which is no header of P5 or P6")
    channels = 1 if match[1] == b"P5" else 3
    width, height, largest = (int(match[i]) for i in (2, 3, 4))
    needed, found = width * height * channels, len(raw) - match.end()
    if largest != 255 or found != needed:
        raise damaged(path, EXPECTED, f"{found:,} bytes of pixels up to {largest}, not {needed:,} up to 255")
    pixels = np.frombuffer(raw, np.uint8, offset=match.end()).reshape(height, width, channels)
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))


def _pillow(path: Path, size: tuple[int, int] | None) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        why = "resizing" if path.suffix.lower() in NETPBM else f"reading {path.suffix} files"
        raise DataError(
            f"cannot read {path}: {why} needs Pillow, which is not installed; `pip install pillow`, "
            "or convert the images to .ppm" + (" of one size" if size else "")
        ) from error
    return Image
