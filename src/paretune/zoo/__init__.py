"""paretune.zoo."""

__all__: list[str] = []
