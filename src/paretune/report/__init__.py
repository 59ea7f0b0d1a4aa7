"""paretune.report."""

__all__: list[str] = []
