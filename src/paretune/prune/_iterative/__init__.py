"""Pruning in rounds, each with a recovery by training or distillation."""
