"""Train: the fit loop, and batch-norm recalibration."""

from paretune.train._recalibrate import recalibrate_batch_norm

__all__ = ["recalibrate_batch_norm"]
