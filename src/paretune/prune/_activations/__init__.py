"""Activation pruning: functions that go and neighbours that are folded together, and ranges of values."""
