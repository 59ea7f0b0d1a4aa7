"""Unstructured pruning: single weights, or units of them, become zero; shapes stay as they are."""
