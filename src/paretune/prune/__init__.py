"""paretune.prune."""

__all__: list[str] = []
