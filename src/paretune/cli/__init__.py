"""paretune.cli."""

__all__: list[str] = []
