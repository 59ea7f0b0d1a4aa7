"""Scores: how much each channel matters; the lowest are removed first.

A score is a function of what it names as arguments (`weight`), in the layout (out, in, *kernel), and returns one
number per output channel. This list is the registry: a recipe says `score: l1`.
"""

from paretune.prune.scores._l1 import l1

__all__ = ["l1"]
