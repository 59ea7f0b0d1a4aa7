"""A study: runs of an objective, stored as they end, resumed whenever it is opened again."""
