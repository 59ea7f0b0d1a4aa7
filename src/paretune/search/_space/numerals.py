"""Numbers in texts, as times and factors have them."""

NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
"""A number without a sign, in a regular expression."""
