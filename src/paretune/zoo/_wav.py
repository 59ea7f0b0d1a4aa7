"""wav: 16-bit mono sound, read with the standard library."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

from paretune.errors import DataError
from paretune.zoo._files import content, damaged

EXPECTED = "an uncompressed .wav file, 16 bit, mono"


def wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Return (samples, rate): int16 (n,), and samples per second.

    A missing or truncated file, another width than 16 bit, or more than one channel is a DataError; nothing is
    mixed down or resampled behind the caller's back.
    """
    path = Path(path)
    raw = content(path, EXPECTED)
    try:
        with wave.open(io.BytesIO(raw)) as sound:
            channels, width, rate = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
            promised = sound.getnframes()
            frames = sound.readframes(promised)
    except (wave.Error, EOFError) as error:
        raise damaged(path, EXPECTED, str(error) or "it ends inside the header") from error
    if (channels, width) != (1, 2):
        raise DataError(
            f"{path} has {channels} channel(s) of {8 * width} bit. Expected {EXPECTED}; convert it, "
            f"for example with `ffmpeg -i {path.name} -ac 1 -sample_fmt s16 mono.wav`"
        )
    if len(frames) != promised * width:
        raise damaged(path, EXPECTED, f"its header promises {promised:,} samples, it has {len(frames) // width:,}")
    return np.frombuffer(frames, "<i2").astype(np.int16), rate
