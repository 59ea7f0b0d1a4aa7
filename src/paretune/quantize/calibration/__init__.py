"""Calibrations: a `Histogram` of what an activation was -> the range (low, high) that its grid covers."""

from paretune.quantize.calibration._minmax import minmax
from paretune.quantize.calibration._mse import mse
from paretune.quantize.calibration._percentile import percentile

__all__ = ["minmax", "mse", "percentile"]
