"""Evidence: what scores look at, collected while the captured graph runs."""
