"""Capture: the model as a graph of ATen operators that runs."""
