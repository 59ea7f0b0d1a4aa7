"""Generators fixed by an index, so that to resume a run is to jump to that index: nothing is replayed."""

from __future__ import annotations

import numpy as np
import torch


def generator(seed: int, epoch: int, batch: int) -> torch.Generator:
    """Return a CPU generator that depends on (seed, epoch, batch) alone, for the augmentation of one batch."""
    # The trailing 1 keeps this stream apart from the global one, which Data.batches seeds from the same triple.
    drawn = int(np.random.SeedSequence([seed, epoch, batch, 1]).generate_state(1)[0])
    return torch.Generator().manual_seed(drawn)
