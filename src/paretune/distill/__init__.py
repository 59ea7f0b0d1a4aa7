"""Distil: train a small model to answer as a large one does."""

from paretune.distill._distill import Distill, distill

__all__ = ["Distill", "distill"]
