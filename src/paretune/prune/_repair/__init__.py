"""One-shot repair: kept weights make up for what went, in closed form."""
