"""paretune.distill/losses."""

__all__: list[str] = []
