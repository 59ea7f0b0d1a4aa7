"""Train: the fit loop, its step, and batch-norm recalibration."""

from paretune.train._fit import FitResult, fit
from paretune.train._objective import task_loss
from paretune.train._recalibrate import recalibrate_batch_norm
from paretune.train._train import Train

__all__ = ["FitResult", "Train", "fit", "recalibrate_batch_norm", "task_loss"]
