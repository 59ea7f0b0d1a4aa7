"""Which configuration runs next, and with what budget."""
