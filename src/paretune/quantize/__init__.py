"""paretune.quantize."""

__all__: list[str] = []
