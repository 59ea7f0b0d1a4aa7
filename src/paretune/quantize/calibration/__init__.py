"""paretune.quantize/calibration."""

__all__: list[str] = []
