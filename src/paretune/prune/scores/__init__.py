"""paretune.prune/scores."""

__all__: list[str] = []
