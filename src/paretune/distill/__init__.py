"""paretune.distill."""

__all__: list[str] = []
