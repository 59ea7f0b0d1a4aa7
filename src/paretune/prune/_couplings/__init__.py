"""Couplings: which slices of which parameters go together, and in what groups."""
