"""Quantize: fewer bits for weights and activations, on the exported graph."""

from paretune.quantize._layer_errors import layer_errors
from paretune.quantize._static import Static, static
from paretune.quantize.calibration._histogram import Histogram

__all__ = ["Histogram", "Static", "layer_errors", "static"]
