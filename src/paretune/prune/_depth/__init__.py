"""Depth: whole residual blocks, found, ordered and removed."""
